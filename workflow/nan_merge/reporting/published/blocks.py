"""Columns and blocks of rows of a printed table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from nan_merge.reporting.published.numbers import MEANS, Printed

Key = tuple[str, str]  # printed suite and task of a column
Row = dict[Key, Printed]


class Block(NamedTuple):
    """Rows that share their columns: those of one printed suite, or of all."""

    label: str
    keys: list[Key]
    rows: dict[str, Row]  # by label


def blocks(record: Mapping[str, Any], printed: Sequence[Printed]) -> tuple[list[str], list[Block]]:
    """Return labels of columns, and blocks: columns are tasks, with a block a suite, or suites; none is without a number."""
    names = {**_in_print(record["tasks"], printed, "task"), **MEANS}
    suites = _in_print(record["suites"], printed, "suite")
    shown = {(number.suite, number.task) for number in printed}
    if record.get("columns") == "suites":
        keys = [(suite, task) for suite in suites for task in names if (suite, task) in shown]
        return [suites[suite] for suite, _ in keys], [Block("", keys, _by_label(printed))]
    tasks = [task for task in names if any(task == other for _, other in shown)]
    return [names[task] for task in tasks], [
        Block(label, [(suite, task) for task in tasks], _by_label(n for n in printed if n.suite == suite))
        for suite, label in suites.items()
    ]


def _in_print(labels: dict[str, str], printed: Sequence[Printed], column: str) -> dict[str, str]:
    """Return labels of tasks or suites in the order of print, which a record in canonical JSON has lost."""
    order = list(dict.fromkeys(getattr(number, column) for number in printed))
    return {name: labels[name] for name in sorted(labels, key=lambda name: order.index(name) if name in order else len(order))}


def _by_label(printed: Iterable[Printed]) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for number in printed:
        rows.setdefault(number.label, {})[number.suite, number.task] = number
    return rows
