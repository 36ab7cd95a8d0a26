"""What the first parts of the report show of a suite: the table of results and the chart of averages, as texts and positions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from nan_merge.reporting.formats import count, interval, percent
from nan_merge.reporting.pairs import AVERAGE, Standing
from nan_merge.reporting.statistics import Estimate, Summary, summarise
from nan_merge.reporting.study import Study
from nan_merge.reporting.table_parts import sentence

GROUP_NAMES = {"nan": "NAN"}  # where the name differs from the key
STEPS = (0.01, 0.02, 0.05, 0.1, 0.2)  # between ticks of an axis of fractions
MOST_TICKS = 7


def results(study: Study, standings: Mapping[str, Standing]) -> dict[str, Any]:
    """Return the columns and rows of the table of results, and the groups of its methods.

    A cell has the value and interval as texts, `number` to sort by (None without one), `standing` (`best`, `alike` or empty) and
    a `title` in words.
    """
    related = {"weighted": "Weighted", "normalised": "Normalised"} if study.has_experts_of_tasks else {}
    columns = {**{task["id"]: study.label(task["id"]) for task in study.tasks}, AVERAGE: "Average", **related}
    rows = [
        {
            **_about(row),
            "cells": [
                _cell(label, _estimate(row, column), standings.get(column), row.method["id"], _examples(study, column))
                for column, label in columns.items()
            ],
        }
        for row in summarise(study)
    ]
    groups = {row["group"]: row["group_name"] for row in rows}
    return {"columns": list(columns.values()), "rows": rows, "groups": groups}


def chart(study: Study, standings: Mapping[str, Standing]) -> dict[str, Any]:
    """Return the averages of all rows with the positions of their intervals on a common axis, in per cent of its length."""
    found = [row for row in summarise(study) if row.average.value is not None]
    if not found:
        return {}
    spans = [[part or 0.0 for part in (row.average.low, row.average.value, row.average.high)] for row in found]
    ticks = _ticks(min(low for low, _, _ in spans), max(high for _, _, high in spans))

    def place(value: float) -> float:
        return round(100 * (value - ticks[0]) / (ticks[-1] - ticks[0]), 2)

    rows = [
        {
            **_about(row),
            "low": place(low),
            "width": round(place(high) - place(low), 2),
            "at": place(value),
            "hosted": bool(row.method.get("host")),
            "draws": bool(row.average.draws),
            "cell": _cell("Average", row.average, standings.get(AVERAGE), row.method["id"], ""),
        }
        for row, (low, value, high) in zip(found, spans, strict=True)
    ]
    return {"rows": rows, "ticks": [(place(tick), percent(tick, 0)) for tick in ticks]}


def _ticks(low: float, high: float) -> list[float]:
    """Return equally spaced fractions, the first at most `low` and the last at least `high`."""
    step = next((step for step in STEPS if (high - low) / step < MOST_TICKS - 1), 0.5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, max(last, first + 1) + 1)]


def _about(row: Summary) -> dict[str, Any]:
    group = row.method.get("group") or "other"
    label = row.method.get("label") or row.method["id"]
    return {"id": row.method["id"], "label": label, "group": group, "group_name": GROUP_NAMES.get(group, group)}


def _estimate(row: Summary, column: str) -> Estimate:
    return row.tasks[column] if column in row.tasks else getattr(row, column)


def _examples(study: Study, column: str) -> str:
    sizes = {score.n for score in study.reported() if score.task == column}
    return f", {count(max(sizes))} examples" if sizes else ""


def _cell(label: str, estimate: Estimate, standing: Standing | None, method: str, examples: str) -> dict[str, Any]:
    if estimate.value is None:
        return {"value": "–", "interval": "", "number": None, "standing": "", "title": sentence(estimate.reason)}
    state = "best" if standing and method in standing.best else "alike" if standing and method in standing.alike else ""
    spread = f" ± {percent(estimate.deviation)}" if estimate.deviation is not None else ""
    shown, told = "", ""
    if estimate.low is not None:
        limits = f"{percent(estimate.low)} to {percent(estimate.high)}"
        shown = limits if estimate.draws else interval(estimate.low, estimate.high)
        told = f", {estimate.draws} draws from {limits}" if estimate.draws else f", 95 % interval {limits}"
    return {
        "value": percent(estimate.value) + spread,
        "interval": shown,
        "number": estimate.value,
        "standing": state,
        "title": f"{label}: {percent(estimate.value)} %{told}{examples}. {sentence(estimate.reason)}".strip(),
    }
