"""Tables of a page of documentation from an archived run: averages by method, verdicts on the claims of papers."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from nan_merge.archive.container import Archive
from nan_merge.core.errors import UserError
from nan_merge.reporting.formats import interval, p_value, percent, signed_number

Line = tuple[str, ...]
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


def _number(row: dict[str, str], name: str) -> float | None:
    return float(row[name]) if row.get(name) else None


def _rows(archive: Archive, name: str, delimiter: str = ",") -> list[dict[str, str]]:
    if name not in archive.files:
        raise UserError(f"{archive.file}: has no {name}; name a suite of the archived run")
    return list(csv.DictReader(io.StringIO(archive.read(name).decode("utf-8")), delimiter=delimiter))
