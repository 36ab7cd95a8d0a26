"""The table of models on benchmarks: scores, and what each gained or lost against one of them."""

from __future__ import annotations

from typing import Any

from nan_merge.reporting import table_parts as parts
from nan_merge.reporting.formats import BREAK, Table, interval, p_value, percent
from nan_merge.reporting.paired_tests import ITSELF, number
from nan_merge.reporting.statistics import Estimate, summarise
from nan_merge.reporting.study import Study

AVERAGE = "average"


def models(study: Study, record: dict[str, Any]) -> Table:
    """One row a model: every task and the average with interval and paired difference to the model of the pairs `against`."""
    columns = [*study.tasks, *([{"id": AVERAGE, "label": "Average"}] if len(study.tasks) > 1 else [])]
    table = Table(study.title(record), ["Model", *(column["label"] for column in columns)])
    pairs = {(pair["method"], pair["task"]): pair for pair in study.comparisons}
    for row in summarise(study):
        name, cells, numbers = row.method["id"], [], {"model": row.method["id"]}
        for task in columns:
            estimate = row.average if task["id"] == AVERAGE else row.tasks[task["id"]]
            pair = pairs.get((name, task["id"]))
            remark = "" if task["id"] == AVERAGE else parts.unanswered(study, row.method, task)
            cells.append(BREAK.join([table.mark(_shown(estimate), remark), *([difference(pair)] if pair else [])]))
            numbers |= parts.columns(task["id"], estimate)
            numbers |= {f"{task['id']}_{column}": pair[column] for column in parts.TESTED} if pair else {}
        table.add([name, *cells], numbers)
    against = next((pair["against"] for pair in study.comparisons), "")
    table.notes = [
        f"{study.measure.capitalize()} in % with its 95 % interval. Average: over tasks.",
        *parts.metric_notes(study),
        *parts.interval_notes(study),
        *([f"Δ: difference to {against} in points, on the same examples, with a 95 % bootstrap interval and the p of a sign-flip "
           "test, adjusted with Holm's method over the models in the column."] if against else []),
    ]  # fmt: skip
    return table


def _shown(estimate: Estimate) -> str:
    return f"{percent(estimate.value)} {interval(estimate.low, estimate.high)}"


def difference(pair: dict[str, str]) -> str:
    """Format a difference: value, interval and adjusted p, or that there is none to test."""
    if pair.get("same_as") == ITSELF:
        return "the same model"
    if number(pair, "changed") == 0:
        return "Δ 0.0, same answers"
    value, p = percent(number(pair, "difference"), signed=True), p_value(number(pair, "p_holm")).replace("<", "< ")
    return f"Δ {value} {parts.difference_limits(pair)}, p {p}"
