"""Format a plan as text: tables in aligned columns of at most 100 characters."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from nan_merge.core.disk import human

NAMES = {"datasets": "data sets", "merged": "merged models", "models": "models of your own", "other": "scores, tables, logs"}
WIDTH = 96
NONE = "-"


def text(plan: Mapping[str, Any]) -> str:
    """Return the whole plan as text."""
    parts = (_assets(plan), _disk(plan), _jobs(plan), _memory(plan), _time(plan))
    return "\n\n".join("\n".join(part) for part in parts if part)


def _assets(plan: Mapping[str, Any]) -> list[str]:
    coming = [entry for entry in plan["assets"] if entry["fetch"]]
    there = [entry["bytes"] for entry in plan["assets"] if not entry["fetch"]]
    rows = [("assets to fetch", "from", "", "") if coming else ("assets to fetch: none", "", "", "")]
    for entry in coming:
        rows.append((entry["asset"], entry["source"], _size(entry), "" if entry["locked"] else "not locked"))
    if coming:
        whole = {"bytes": sum(entry["bytes"] or 0 for entry in coming), "exact": all(entry["exact"] for entry in coming)}
        unknown = sum(entry["bytes"] is None for entry in coming)
        rows.append(("total", "", _size(whole), f"and {unknown} unknown" if unknown else ""))
    lines = _table(rows, "<<><")
    if there:
        lines.append(f"  there already: {len(there)} assets, {human(sum(there))}")
    for suite, reasons in plan["skipped"].items():
        lines += [line for task, why in reasons.items() for line in _folded(f"left out of {suite}: {task}: {why}")]
    return lines + lock_lines(plan["update_lock"])


def lock_lines(command: str | None) -> list[str]:
    """Return the command that locks what is not locked, in lines that a shell takes together."""
    if command is None:
        return []
    lines = textwrap.wrap(command, WIDTH - 6, break_long_words=False, break_on_hyphens=False)
    shown = [f"    {line} \\" for line in lines[:-1]] + [f"    {lines[-1]}"]
    return ["  a run stops at assets that are not locked; lock them first:", *shown]


def _disk(plan: Mapping[str, Any]) -> list[str]:
    folders = plan["disk"]["folders"]
    rows: list[Sequence[str]] = [("results/", "there", "to come", "outputs", "")]
    for name, row in folders.items():
        label, note = NAMES.get(name, name), f"{row['unknown']} of unknown size" if row["unknown"] else ""
        if name == "temporary":
            label, note = "temporary", f"removed once used; those of {plan['jobs_at_once']} jobs at once"
        rows.append((label, *_row(row), note))
    total = {key: sum(row[key] for row in folders.values()) for key in ("there", "to_come", "outputs")}
    lines = _table([*rows, ("total", *_row(total), "")], "<>>><")
    more = ", and what is of unknown size" if any(row["unknown"] for row in folders.values()) else ""
    for found in plan["disk"]["disks"]:
        where = "" if len(plan["disk"]["disks"]) == 1 else f" where {', '.join(found['holds'])} lie"
        fits = "it fits" if found["fits"] else "IT DOES NOT FIT"
        lines.append(f"  free{where}: {human(found['free'])}, needed: about {human(found['needed'])}{more}; {fits}")
    return lines


def _row(row: Mapping[str, int]) -> list[str]:
    sizes = [human(row[key]) if row[key] else NONE for key in ("there", "to_come")]
    return [*sizes, f"{row['outputs']:,}" if row["outputs"] else NONE]


def _jobs(plan: Mapping[str, Any]) -> list[str]:
    total: dict[str, Any] = {"rule": "total"}
    for key in ("to_do", "done", "core_seconds", "gpu_seconds"):
        total[key] = sum(row[key] for row in plan["jobs"])
    if not total["to_do"]:
        return [f"jobs: nothing to do, {total['done']:,} done"]
    rows: list[Sequence[str]] = [("jobs", "to do", "done", "core time", "GPU time")]
    for row in [*plan["jobs"], total]:
        counts = (f"{row[key]:,}" if row[key] else NONE for key in ("to_do", "done"))
        rows.append((row["rule"], *counts, duration(row["core_seconds"]), duration(row["gpu_seconds"])))
    return _table(rows, "<>>>>")


def _memory(plan: Mapping[str, Any]) -> list[str]:
    """Say what one model takes on GPUs."""
    rows: list[Sequence[str]] = [("GPU memory", "weights", "with a batch", "on each GPU", "")]
    for found in plan["gpu_memory"]:
        sizes = (human(size) for size in (found["weights"], found["needed"], found["needed"] / found["gpus"]))
        gpus = f"{found['gpus']} GPUs" if found["gpus"] > 1 else "one GPU"
        rows.append((found["suite"], *sizes, f"{found['precision']}, batches of {found['batch_size']}, {gpus}"))
    return _table(rows, "<>>><") if len(rows) > 1 else []


def _time(plan: Mapping[str, Any]) -> list[str]:
    time, at_once = plan["time"], plan["jobs_at_once"]
    if not (wall := time["wall_seconds"]):
        return []
    kinds = {"cores": time["core_seconds"], "GPUs": time["gpu_seconds"]}
    spent = " and ".join(f"{duration(taken)} of {kind}" for kind, taken in kinds.items() if taken)
    head = f"time, {at_once} jobs at once" if at_once > 1 else "time, one job at once"
    least = f"{wall / 86400:.1f} days" if wall > 172800 else duration(wall)
    return [
        f"{head}: at least {least}; {spent}",
        "  by the prices in config/costs.yaml: those of GPUs are estimates, for a GPU a job",
    ]


def duration(seconds: float) -> str:
    """Write a time in its natural unit: 40 s, 12 min, 3.4 h."""
    if not seconds:
        return NONE
    size, unit, digits = (1, "s", 0) if seconds < 90 else (60, "min", 0) if seconds < 5400 else (3600, "h", 1)
    return f"{seconds / size:,.{digits}f} {unit}"


def _size(entry: Mapping[str, Any]) -> str:
    """Write the bytes of an asset, and whether they are exact."""
    if entry["bytes"] is None:
        return "unknown"
    return human(entry["bytes"]) if entry["exact"] else f"about {human(entry['bytes'])}"


def _folded(line: str) -> list[str]:
    return textwrap.wrap(line, WIDTH, initial_indent="  ", subsequent_indent="    ", break_long_words=False)


def _table(rows: Sequence[Sequence[str]], sides: str) -> list[str]:
    """Align cells to the left (<) or right (>) of their columns; all but the head of the first column are set in."""
    cells = [[row[0] if number == 0 else f"  {row[0]}", *row[1:]] for number, row in enumerate(rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(sides))]
    lines = ("  ".join(f"{c:{side}{width}}" for c, side, width in zip(row, sides, widths, strict=True)) for row in cells)
    return [line.rstrip() for line in lines]
