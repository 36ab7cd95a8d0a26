"""Tables of a page of documentation from an archived run: averages by method, verdicts on the claims of papers."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping

from nan_merge.archive.container import Archive
from nan_merge.core.errors import UserError
from nan_merge.reporting.formats import interval, p_value, percent, signed_number

Line = tuple[str, ...]
MAIN_TABLE = "results/tables/main_"
MAIN = re.compile(rf"{MAIN_TABLE}.+\.csv")
AVERAGES = ("method", "average", "95 % interval", "weighted", "normalised", "Δ to its host [95 %], adjusted p")
BESIDE = ("method", "average", "95 % interval", "with `{}`", "Δ [95 %], adjusted p", "CPU s of the merge")
VERDICTS = ("claim", "suite", "effect of", "verdict", "effect [95 %], adjusted p", "seeds")


def averages(archive: Archive, suite: str) -> list[Line]:
    """Return the rows of AVERAGES of a suite, the best first."""
    rows = _rows(archive, f"results/tables/main_{suite}.csv")
    return [_averages(row) for row in sorted(rows, key=lambda row: -float(row["average"] or 0))]


def beside(archive: Archive, suite: str, variant: str) -> list[Line]:
    """Return the rows of BESIDE of a suite: every scored method without a variant, and its row with this one.

    The processor time of a merge is that of its job, by Snakemake's benchmark, where the archive has the file.
    """
    rows = {row["method"]: row for row in _rows(archive, f"results/tables/main_{suite}.csv")}
    alone = [row for name, row in rows.items() if "+" not in name and row["average"]]
    times = f"results/benchmarks/merge_checkpoints/{suite}/{{}}/seed0.tsv"
    return [
        (*_averages(row)[:3], *_with(rows.get(f"{row['method']}+{variant}")), _seconds(archive, times.format(row["method"])))
        for row in sorted(alone, key=lambda row: -float(row["average"]))
    ]


def across(archive: Archive) -> tuple[Line, list[Line]]:
    """Return a head with all suites of the run and rows of averages with their intervals, the best on the first suite first."""
    names = sorted(name for name in archive.files if MAIN.fullmatch(name))
    by_suite = [{row["label"]: row for row in _rows(archive, name)} for name in names]
    labels = sorted(by_suite[0], key=lambda label: -float(by_suite[0][label]["average"] or 0))
    lines = [(label, *(_limited(of_suite.get(label, {}), "average") for of_suite in by_suite)) for label in labels]
    return ("method", *(f"`{name[len(MAIN_TABLE) : -len('.csv')]}`" for name in names)), lines


def by_experts(archive: Archive, suite: str) -> tuple[Line, list[Line]]:
    """Return a head with the numbers of experts, and a row a method: averages, of one with a host the differences from it."""
    rows = _rows(archive, f"results/tables/subsets_{suite}.csv")
    sizes, found = list(dict.fromkeys(row["experts"] for row in rows)), {(row["label"], row["experts"]): row for row in rows}
    lines = []
    for label, host in dict.fromkeys((row["label"], row["host"]) for row in rows):
        cells = [found.get((label, size), {}) for size in sizes]
        lines.append((label, *(_limited(cell, "difference" if host else "average", signed=bool(host)) for cell in cells)))
    return ("method", *(f"{size} experts" for size in sizes)), lines


def _limited(row: Mapping[str, str], name: str, signed: bool = False) -> str:
    value, low, high = (_number(row, f"{name}{suffix}") for suffix in ("", "_low", "_high"))
    return f"{percent(value, signed=signed)} {interval(low, high, signed=signed)}".strip()


def _with(row: dict[str, str] | None) -> Line:
    return (percent(_number(row, "average")), _difference(row)) if row else ("", "")


def _seconds(archive: Archive, name: str) -> str:
    if name not in archive.files:
        return ""
    (row,) = _rows(archive, name, delimiter="\t")
    return f"{float(row['cpu_time']):.0f}"


def _averages(row: dict[str, str]) -> Line:
    means = [percent(_number(row, name)) for name in ("average", "weighted_average", "normalised_average")]
    limits = f"{percent(_number(row, 'average_low'))} – {percent(_number(row, 'average_high'))}" if row["average_low"] else ""
    return row["label"], means[0], limits, *means[1:], _difference(row)


def _difference(row: dict[str, str]) -> str:
    """Return the difference of a row from its host with its limits and adjusted p, in points."""
    difference, low, high, p = (_number(row, f"host_{name}") for name in ("difference", "low", "high", "p_holm"))
    if difference is None:
        return ""
    shown = f"{percent(difference, signed=True)} {interval(low, high, signed=True)}".strip()
    return shown if p is None else f"{shown}, p {_compared(p)}"


def _compared(p: float) -> str:
    shown = p_value(p)
    return f"< {shown[1:]}" if shown.startswith("<") else f"= {shown}"


def verdicts(archive: Archive) -> list[Line]:
    """Return the rows of VERDICTS of the hypotheses that the run could test, in the order of the claims."""
    tested = [row for row in _rows(archive, "results/claims.csv") if row.get("difference")]
    return [tuple(_verdict(row)) for row in tested]


def _verdict(row: dict[str, str]) -> Iterator[str]:
    yield f"`{row['claim']}`"
    yield f"`{row['suite']}`"
    named = f"`{row['method']}` over `{row['against']}`" if row["against"] else row["metric"]
    yield f"{named}, weighted" if row["metric"] == "weighted_average" else named
    yield row["verdict"]
    effect, low, high = (signed_number(float(row[name]), 2) for name in ("difference", "low", "high"))
    yield f"{effect} [{low}, {high}], p {_compared(float(row['p_holm']))}"
    yield row["seeds"]


def _number(row: Mapping[str, str], name: str) -> float | None:
    return float(row[name]) if row.get(name) else None


def _rows(archive: Archive, name: str, delimiter: str = ",") -> list[dict[str, str]]:
    if name not in archive.files:
        raise UserError(f"{archive.file}: has no {name}; name a suite of the archived run")
    return list(csv.DictReader(io.StringIO(archive.read(name).decode("utf-8")), delimiter=delimiter))
