"""Tables of methods, scans and sweeps, one function a kind."""

from __future__ import annotations

from typing import Any

from nan_merge.reporting.formats import BREAK, Table
from nan_merge.reporting.statistics import candidates, summarise
from nan_merge.reporting.study import Study
from nan_merge.reporting.table_parts import (
    TESTED,
    columns,
    counted,
    difference,
    estimated,
    interval_notes,
    limits,
    metric_notes,
    pairs_of,
)  # fmt: skip


def methods(study: Study, record: dict[str, Any]) -> Table:
    """One row a method: data it uses, whether one model serves all tasks, paper, average."""
    header = ["Method", "Id", "Data", "One model", "Reference", "Average", "95 % interval"]
    table = Table(study.title(record), header, text=(0, 1, 2, 3, 4))
    for row in summarise(study):
        of = row.method
        data, static, reference = of.get("data", "none"), of.get("static", True), of.get("reference", "")
        about = [of.get("label", of["id"]), of["id"], data, "yes" if static else "no", reference]
        table.add(
            [*about, estimated(table, row.average), limits(table, row.average)],
            {"method": of["id"], "label": about[0], "data": data, "static": static, "reference": reference}
            | columns("average", row.average)
            | {"draws": row.average.draws or None, "remark": row.average.reason},
            study.block(of),
        )
    table.notes = [
        "Data: used by the method besides the weights. One model: whether one model serves all tasks; otherwise the task "
        f"must be known. Reference: number of arXiv, or where it was published. Average: {study.measure} in % on the test split, "
        "over tasks.",
        *metric_notes(study),
        *interval_notes(study),
        *study.choices(),
    ]
    return table


def scan(study: Study, record: dict[str, Any]) -> Table:
    """One row a combination of scanned hyper-parameters, against its host."""
    rows = [row for row in summarise(study) if "values" in row.method.get("sweep", {})]
    keys = list(dict.fromkeys(key for row in rows for key in row.method["sweep"]["values"]))
    header = ["Method", *(key.replace("_", " ") for key in keys), "Average", "95 % interval", "Δ to its host"]
    table = Table(study.title(record), header, text=(0, *range(1, 1 + len(keys)), len(header) - 1))
    for row in rows:
        sweep = row.method["sweep"]
        pairs = [pair for pair in pairs_of(study, "scan") if pair["method"] == row.method["id"]]
        values = {key: sweep["values"].get(key, "") for key in keys}
        cells = [sweep["label"], *map(str, values.values()), estimated(table, row.average), limits(table, row.average)]
        cells.append(BREAK.join(difference(study, pair) for pair in pairs))
        numbers = {"method": row.method["id"], **values, **columns("average", row.average), "remark": row.average.reason}
        numbers |= {name: pair[name] for pair in pairs for name in ("against", *TESTED)}
        table.add(cells, numbers, sweep["id"])
    scanned = counted(pairs_of(study, "scan"))
    table.notes = [
        "Every combination of the listed values; an empty cell is a hyper-parameter that the method does not scan. Average: "
        f"{study.measure} in % on the test split, over tasks.",
        *metric_notes(study),
        f"Δ: difference of the averages in percentage points; p adjusted with Holm's method over the {scanned} of scans in the "
        "suite. The best of many rows is biased upwards; no other row takes over a value from them.",
        *interval_notes(study),
    ]
    return table


def sweep(study: Study, record: dict[str, Any]) -> Table:
    """One row a candidate of a tuned method: accuracy on the validation splits, and a mark on the chosen one."""
    header = ["Method", "Tuned", "Value", "Average on validation", "95 % interval", "Chosen"]
    table = Table(study.title(record), header, text=(0, 1, 5))
    for method, points in candidates(study).items():
        picked, symbol = study.chosen(method), study.symbol(method)
        for value, average in sorted(points.items()):
            formatted = f"{value:g}".replace("-", "−")
            mark = "chosen" if value in picked else ""
            table.add(
                [study.label(method), symbol, formatted, estimated(table, average), limits(table, average), mark],
                {"method": method, "tuned": symbol, "value": value, **columns("average", average), "chosen": bool(mark)},
                method,
            )
    table.notes = [
        f"{study.measure.capitalize()} in % on the validation splits, over tasks; no test example is used. Chosen: the value "
        "with the best average"
        f"{', for each seed' if len(study.seeds) > 1 else ''}. λ: mean coefficient; p: exponent of the "
        "norm, 0 for uniform coefficients, 1 for NAN.",
        *metric_notes(study),
        *interval_notes(study),
    ]
    return table
