"""The table of merges of random subsets of the experts."""

from __future__ import annotations

import math
from typing import Any

from nan_merge.reporting.formats import Table, interval, percent
from nan_merge.reporting.study import Study
from nan_merge.reporting.subset_data import DRAWS, Limited, Point, points


def subsets(study: Study, record: dict[str, Any]) -> Table:
    """One row a method and number of experts: average accuracy, also by that of individual models, and difference to the host."""
    header = ["Method", "Experts", "Subsets", "Average", "Normalised", "95 % interval", "Δ to host", "95 % interval"]
    table = Table(study.title(record), header)
    found = points(study)
    for method in study.methods:
        for point in (each for each in found if each.method is method):
            cells = [study.label(method["id"]), str(point.size), f"{'all ' * point.complete}{point.subsets}"]
            cells += [percent(point.accuracy.value), *_cells(point.normalised), *_cells(point.difference, signed=True)]
            table.add(cells, _record(study, point), method["id"])
    table.notes = [*notes(study, found), *_left_out(study, found)] if found else []
    return table


def _cells(limited: Limited | None, signed: bool = False) -> list[str]:
    """Return a value and its interval; nothing without a host, or by an individual model that answered nothing correctly."""
    if limited is None or not all(map(math.isfinite, limited)):
        return ["", ""]
    return [percent(limited.value, signed=signed), interval(limited.low, limited.high, signed=signed)]


def _record(study: Study, point: Point) -> dict[str, Any]:
    """Return a point as a row of the CSV file, unrounded."""
    named = {"method": point.method["id"], "label": study.label(point.method["id"]), "host": point.method.get("host")}
    kinds = {"average": point.accuracy, "normalised": point.normalised, "difference": point.difference}
    numbers = {
        f"{kind}{suffix}": getattr(limited, part) if limited else None
        for kind, limited in kinds.items()
        for suffix, part in (("", "value"), ("_low", "low"), ("_high", "high"))
    }
    return {**named, "experts": point.size, "subsets": point.subsets, "complete": point.complete, **numbers}


def notes(study: Study, found: list[Point]) -> list[str]:
    """Say what was drawn and averaged, and what the intervals cover."""
    seeds = f", {len(study.seeds)} fine-tuning seeds, each with the same subsets" if study.samples_seeds else ""
    alone = [str(size) for size, count in {p.size: p.subsets for p in found if not p.complete}.items() if count == 1]
    return [
        "Every method merges the same random subsets of the experts, and a merge is scored on the tasks of its subset. Average: "
        "over tasks and subsets. Normalised: mean of the accuracies divided by those of the individual models, in %.",
        f"Intervals: Student's t by the standard deviation over {DRAWS:,} bootstrap draws of the examples, crossed with D − 1 of "
        f"D subsets{' and R − 1 of R seeds' * study.samples_seeds}{seeds}; where all subsets of a size are merged, they are no "
        f"sample. They cover {study.covered}, and the choice of subsets, not other tasks."
        + (f" With one subset of {' and '.join(alone)} experts they do not cover other subsets." if alone else ""),
        "Δ to host: difference of the averages in points, on the same subsets and examples; the intervals are not adjusted for "
        "their number.",
    ]


def _left_out(study: Study, found: list[Point]) -> list[str]:
    shown = {point.method["id"] for point in found}
    merges = [method for method in study.methods if method.get("group") != "reference" and method["id"] not in shown]
    names = ", ".join(study.label(method["id"]) for method in merges)
    reason = "tuned, learned, calibrated or stated for all experts together, made for one task at a time, or one of several draws"
    return [f"Not merged over subsets, since {reason}: {names}."] if names else []
