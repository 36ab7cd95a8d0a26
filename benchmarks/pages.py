"""Tables of docs/performance.md, each from a file of `results/`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.cases import ROOT
from benchmarks.evaluation.table import processes
from benchmarks.layers import pairs, rows
from benchmarks.memory import peaks
from benchmarks.methods import costs
from benchmarks.programs import OURS, SAME_AS
from benchmarks.scoring import speeds
from benchmarks.tables import PEERS, grid, matrix_ratios, megabytes, select, wall
from nan_merge.core.files import read_json

RESULTS = ROOT / "benchmarks/results"


def merges(results: Mapping[str, Any]) -> list[str]:
    """Return the table of ours beside the peer's merges of the same models."""
    (case,) = results["cases"]
    (peer,) = (name for name in PEERS if any(run["program"] == name for run in case["runs"]))
    lines = []
    for method in dict.fromkeys(run["method"] for run in case["runs"] if run["program"] == "ours"):
        programs = (("ours", method), (peer, SAME_AS.get(method, method)))
        seconds = [wall(case, *program) or math.nan for program in programs]
        memory = [megabytes(select(case["runs"], *program), "anonymous") for program in programs]
        cells = [cell for s, held in zip(seconds, memory, strict=True) for cell in (f"{s:.1f}", held)]
        floor = seconds[0] / (wall(case, "floor", "") or math.nan)
        lines.append([f"`{OURS[method]}`", *cells, f"{seconds[0] / seconds[1]:.2f}", f"{floor:.1f}"])
    version = f"{peer} {results['facts']['peers'][peer][peer]}"
    models = f"{case['experts']} × {case['size']} {case['type']}"
    return grid([models, "wall s", "anonymous MB", f"{version}: wall s", "anonymous MB", "ratio of wall", "× floor"], lines)


def wholes(results: Mapping[str, Any]) -> list[str]:
    """Return the table of what whole models take, computed from few layers and from parts."""
    lines = []
    for few, many in pairs(results["cases"]):
        lines += [[f"{few['experts']} × {few['size']}", *row[:2], *row[-3:]] for row in rows(few, many) if row[1] != "floor"]
    return grid(["from", "method", "program", "wall", "processor time", "anonymous GB"], lines, 3)


TABLES: dict[str, Callable[[Mapping[str, Any]], list[str]]] = {
    "merge": merges,
    "vision": merges,
    "language": wholes,
    "language_13B": wholes,
    "matrices": matrix_ratios,
    "memory": peaks,
    "evaluation": processes,
    "scoring": speeds,
    "methods": costs,
}


def measured(name: str) -> str:
    """Return a table of a file of results as Markdown, and when it was measured."""
    results = read_json(RESULTS / f"{name}.json")
    source = f"[benchmarks/results/{name}.md](../benchmarks/results/{name}.md)"
    return "\n".join([*TABLES[name](results), "", f"Measured {results['facts']['date']}, every run: {source}.", ""])
