"""What whole models take, computed from models of few layers, and from parts of larger ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.programs import MATRIX
from benchmarks.tables import grid, keys, others_share, select, wall

Case = Mapping[str, Any]
TIMES = {"wall": "seconds", "CPU": "processor_seconds"}
OWN = 130_000_000  # bytes of memory that the program takes for itself, whatever the size of the models
BUSY = 0.2  # share of other programs above which wall times say nothing of a quiet machine


def layers_table(cases: Sequence[Case]) -> str:
    """Return a table for each size that was measured with several numbers of layers; nothing without such a size."""
    return "".join("\n" + _of_size(*pair) for pair in pairs(cases))


def pairs(cases: Sequence[Case]) -> list[tuple[Case, Case]]:
    """Return of each size that was measured with several numbers of layers the cases with the fewest and with the most."""
    found: dict[str, list[Case]] = {}
    for case in sorted(cases, key=lambda case: case["layers"]):
        if case["asked"] is not None:
            found.setdefault(case["size"], []).append(case)
    return [(some[0], some[-1]) for some in found.values() if some[0]["layers"] < some[-1]["layers"]]


def _of_size(few: Case, many: Case) -> str:
    """Return the table of a size from its runs with the fewest and with the most layers."""
    size, whole, parts = few["size"], few["layers_of_size"], few["parts"]
    head = [f"{what}: {time}" for what in ("without layers", "a layer", f"all {whole} layers") for time in TIMES]
    about = f"From a straight line through the runs with {few['layers']} and with {many['layers']} layers; embedding, head and"
    about += f" the program itself are the part without layers. – where other programs took more than {BUSY:.0%} of the"
    about += " processor time."
    held = f"{many['layers']} layers"
    if parts > 1:
        held = size.partition("/")[0]
        head += [f"{held}: {time}" for time in TIMES]
        about += f" Every side of every matrix is 1/{parts} of that of {held}, so that {held} takes {parts}³ times as many"
        about += f" operations and {parts}² times the memory beyond {OWN / 1e9:.2f} GB: the last columns are computed so,"
        about += " not measured."
    head.append(f"{held}: anonymous GB")
    lines = [f"## {few['experts']} × {size}, all layers", "", about, ""]
    return "\n".join([*lines, *grid(["method", "program", *head], rows(few, many), 2), ""])


def rows(few: Case, many: Case) -> list[list[str]]:
    """Return the rows of a size, the floor first; without those of which one of the two cases has no run that ended well."""
    found = [_row(few, many, *key) for key in keys(many["runs"])]
    return [row for row in found if row]


def _row(few: Case, many: Case, method: str, program: str) -> list[str]:
    """Return a row; nothing where one of the two cases has no run that ended well."""
    runs = [select(case["runs"], program, method) for case in (few, many)]
    if any(wall(case, program, method) is None for case in (few, many)):
        return []
    busy = max(map(others_share, runs)) > BUSY
    found = {time: _line(few, many, method, program, key) for time, key in TIMES.items()}
    columns = list(zip(*found.values(), strict=True))
    cells = ["–" if busy and time == "wall" else clock(s) for some in columns for time, s in zip(found, some, strict=True)]
    parts, peak = few["parts"], max(run["anonymous"] for each in runs for run in each)
    full = [*cells[-2:] * (parts > 1), f"{(parts**2 * (peak - OWN) + OWN) / 1e9:.1f}"]
    return [method or "read and write", program, *cells[:-2], *(full if method in MATRIX else [""] * len(full))]


def _line(few: Case, many: Case, method: str, program: str, key: str) -> tuple[float, ...]:
    """Return the seconds without layers, of a layer, of all layers, and of the model that the shape is a part of."""
    least, most = (wall(case, program, method, key) or 0.0 for case in (few, many))
    layer = (most - least) / (many["layers"] - few["layers"])
    without = least - few["layers"] * layer
    whole = without + few["layers_of_size"] * layer
    return without, layer, whole, few["parts"] ** 3 * whole


def clock(seconds: float) -> str:
    """Write a time in seconds, minutes or hours."""
    if seconds < 600:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
