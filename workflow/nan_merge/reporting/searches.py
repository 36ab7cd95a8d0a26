"""The table of searches of hyper-parameters: what was tried, what was chosen, and how optimistic the best score is."""

from __future__ import annotations

from typing import Any

from nan_merge.reporting.formats import Table, percent
from nan_merge.reporting.study import Study, spelt_point

HEADER = ["Method", "Search", "Trials", "First", "Best", "Cross-validated", "Optimism", "Chosen"]
COST = ["Pruned", "Scored"]  # behind the trials
PRUNED = (
    "Pruned: trials that were stopped after a task, since their average over the tasks so far was below the median of the "
    "complete trials of earlier rounds; they are no part of the choice and of its cross-validation. –: a search that stops none. "
    "Scored: % of the validation examples of all trials."
)


def search_table(study: Study, record: dict[str, Any]) -> Table:
    """One row a method and seed that chose on validation: trials, scores of the first and the best, what was chosen.

    Where trials could be pruned, the row says how many were, and which share of the validation examples was scored.
    """
    entries = in_order(study)
    pruning = any("cost" in entry for entry in entries)
    header = [*HEADER[:3], *COST, *HEADER[3:]] if pruning else HEADER
    table = Table(study.title(record), header, text=(0, 1, len(header) - 1))
    for entry in entries:
        optimism = f"{100 * entry['optimism']:.1f}".replace("-", "−")
        numbers = [percent(entry["trace"][0]["average"]), percent(entry["best"]), percent(entry["cross_validated"]), optimism]
        kept = {key: entry[key] for key in ("method", "seed", "search", "trials", "best", "cross_validated", "optimism")}
        found, cost, point = entry.get("cost", {}), [], spelt_point(entry["point"])
        if pruning:
            cost = [str(found["pruned"]), percent(found["examples_scored"] / found["examples"])] if found else ["–", "100.0"]
        table.add(
            [study.label(entry["method"]), entry["search"], str(entry["trials"]), *cost, *numbers, point],
            {**kept, **found, "first": entry["trace"][0]["average"], "chosen": entry["chosen"], "point": point},
            entry["method"],
        )
    table.notes = [*_notes(study), *[PRUNED] * pruning]
    return table


def _notes(study: Study) -> list[str]:
    return [
        f"Average over tasks of the {study.measure} in % on the validation splits; no test example is used. Trials: merges that "
        "were made and scored. First: the first trial, which tpe and cma_es make of the method as it is.",
        "Cross-validated: over five folds of the validation examples, the best trial on four is scored on the fifth. Optimism: "
        "best less cross-validated, in percentage points: the part of the best score that comes of choosing among the trials. "
        "That tpe and cma_es proposed them by scores on the same examples is not in it. The test split has no part in either.",
    ]


def in_order(study: Study) -> list[dict[str, Any]]:
    """Return the searches of the shown methods, in the order of the rows, then of the seeds."""
    place = {method["id"]: row for row, method in enumerate(study.methods)}
    return sorted((e for e in study.searches if e["method"] in place), key=lambda e: (place[e["method"]], e["seed"]))
