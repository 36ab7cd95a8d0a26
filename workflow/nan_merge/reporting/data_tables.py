"""The table of the checks of the data."""

from __future__ import annotations

from typing import Any

from nan_merge.reporting.formats import Table, count, percent
from nan_merge.reporting.statistics import BASE, summarise
from nan_merge.reporting.study import Study
from nan_merge.reporting.table_parts import owner_notes


def data(study: Study, record: dict[str, Any]) -> Table:
    """One row a task: sizes, duplicates, near-duplicates of test in train, class balance, and baselines beside pretrained."""
    header = ["Task", "Classes", "Train", "Validation", "Test", "In two splits", "Near-duplicates", "… in %", "Largest class"]
    table = Table(study.title(record), [*header, "Majority", "Linear", "Pretrained"])
    base = next((row.tasks for row in summarise(study) if row.method["id"] == BASE), {})
    for task in study.tasks:
        if not (found := study.data_checks.get(task["id"])):
            continue
        pretrained = base[task["id"]].value if task["id"] in base else None
        shares = [found["near_share"], *(found.get(name) for name in ("largest_share", "majority", "linear")), pretrained]
        near = count(found["near_duplicates"])
        if found["compared"] < found["splits"]["test"]:
            near = table.mark(near, f"Of {count(found['compared'])} test examples, at equal distances.")
        sizes = [count(found["splits"].get(split)) for split in ("train", "validation", "test")]
        cells = [task.get("label", task["id"]), count(found["classes"]), *sizes, count(found["duplicates"]), near]
        table.add([*cells, *map(percent, shares)], {**_plain(found), "pretrained": pretrained})
    table.notes = [*(_notes(list(study.data_checks.values())) if table.rows else []), *owner_notes(study)]
    return table


def _notes(checks: list[dict[str, Any]]) -> list[str]:
    near, features, penalty = (
        dict.fromkeys(str(found[key]) for found in checks) for key in ("near_duplicate", "features", "penalty")
    )
    return [
        "In two splits: different examples that stand in more than one split, of those that are used here.",
        f"Near-duplicates: test examples with one in train: {'; '.join(near)}. They are counted, and stay.",
        "Largest class: share of test, in %. Majority, Linear, Pretrained: accuracy on test in %, of the most frequent class of "
        f"train, of logistic regression on {'; '.join(features)} (train, L2 penalty {', '.join(penalty)}), and of the "
        "base, which was fine-tuned on nothing.",
    ]


def _plain(found: dict[str, Any]) -> dict[str, Any]:
    left_out = ("splits", "near_duplicate", "features", "penalty")
    return {**{key: value for key, value in found.items() if key not in left_out}, **found["splits"]}
