"""A leaderboard-ready CSV of a run: a row a method of a suite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nan_merge.export.scored_models import digests, summary_of
from nan_merge.reporting.formats import Table, write_csv
from nan_merge.reporting.study import Study
from nan_merge.reporting.table_parts import collection, columns


def row(study: Study, method: Mapping[str, Any], jobs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return one row: names, the average with its 95 % interval, and what it was measured on; scores are fractions.

    `n` counts the test examples of all tasks. `tasks`, `metrics`, `seeds` and `digests` are lists with spaces between; the
    score of each task, a mean over seeds, has a column `score_<task>`.
    """
    summary = summary_of(study, method, study.seeds)
    sizes = {score.task: score.n for score in study.reported() if score.method == method["id"]}
    tasks = [task["id"] for task in study.tasks]
    return {
        "suite": study.suite["id"],
        "method": method["id"],
        "label": method.get("label", method["id"]),
        "group": method.get("group"),
        **columns("average", summary.average),
        "average_sd_over_seeds": summary.average.deviation,
        "tasks": _joined(tasks),
        "metrics": _joined(dict.fromkeys(map(study.metric, tasks))),
        "n": sum(sizes.values()),
        "seeds": _joined(study.seeds),
        "collection": collection(study),
        "digests": _joined(digests(jobs)),
        **{f"score_{task}": summary.tasks[task].value for task in tasks},
    }


def write(rows: Sequence[dict[str, Any]], output: Path) -> None:
    """Write the rows as CSV; a cell without a number is empty."""
    table = Table("", [])
    table.records = list(rows)
    write_csv(table, output)


def _joined(values: Any) -> str:
    return " ".join(map(str, values))
