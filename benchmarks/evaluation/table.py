"""Write results: medians, ratios, and the cost of an image beside the fixed cost of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.tables import grid, machine, spread

Run = Mapping[str, Any]
PEER, PARTS = "fusion-bench", ("network", "encoder", "loop")
TEST_IMAGES = 87_433  # of the eight tasks of the papers


def table(results: Mapping[str, Any]) -> str:
    """Return the tables of `benchmarks.evaluation`."""
    model = f"{results['size']} with random weights, {results['threads']} threads, batches of {results['batch']}"
    lines = ["# Evaluations", "", machine(results["facts"]), "", f"{model}.", "", *_loop(results["loop"])]
    if results["runs"]:
        lines += [*_runs(results), *_lines(results), *_parts(results["runs"]), *_once(results)]
    return "\n".join(lines)


def _loop(rounds: Sequence[Run]) -> list[str]:
    """Compare the loop with the forward pass of the same rounds."""
    rows = []
    for precision in dict.fromkeys(each["precision"] for each in rounds):
        for part in PARTS:
            found = [each for each in rounds if (each["precision"], each["part"]) == (precision, part)]
            rates = [f"{median(each['images'] / each[kind] for each in found):.1f}" for kind in ("wall", "processor")]
            speeds = [_speed(rounds, precision, part, kind) for kind in ("wall", "processor")]
            rows.append([precision, WORDS[part], str(len(found)), *rates, *speeds])
    head = ["precision", "what", "rounds", "images/s", "images/CPU s", "speed of the network", "by CPU time"]
    about = (
        "In one process on one thread, in turn. The speed is the median over the rounds of the network's time over this one's."
    )
    return ["## The batch loop", "", about, "", *grid(head, rows, 2), ""]


WORDS = {
    "network": "the network alone, on ready floating-point pixels",
    "encoder": "the encoder, on ready bytes",
    "loop": "the loop, from the mapped file to predictions",
}


def _speed(rounds: Sequence[Run], precision: str, part: str, kind: str) -> str:
    chosen = {(each["round"], each["part"]): each[kind] for each in rounds if each["precision"] == precision}
    numbers = sorted({number for number, _ in chosen})
    return f"{median(chosen[number, 'network'] / chosen[number, part] for number in numbers):.3f}"


def middle(runs: Sequence[Run], program: str, images: int, kind: str) -> float | None:
    """Return the median of the runs of one program that ended well."""
    found = [r[kind] for r in runs if (r["program"], r["images"], r["outcome"]) == (program, images, "ok")]
    return median(found) if found else None


def _runs(results: Mapping[str, Any]) -> list[str]:
    agreed = "; ".join(f"{program} {number}" for program, number in results["agreement"].items())
    note = f"Predictions that are those of {next(iter(results['agreement']), '')}: {agreed}."
    return ["## Whole processes", "", ABOUT, "", *processes(results), "", note, ""]


def processes(results: Mapping[str, Any]) -> list[str]:
    """Return the table of the runs by number of images and program."""
    rows = []
    for images, program in dict.fromkeys((run["images"], run["program"]) for run in results["runs"]):
        every = [run for run in results["runs"] if (run["images"], run["program"]) == (images, program)]
        runs = [run for run in every if run["outcome"] == "ok"]
        cells = [spread([run[kind] for run in runs]) for kind in KINDS] if runs else [every[0]["outcome"], ""]
        number = str(len(runs)) if len(runs) == len(every) else f"{len(runs)} of {len(every)}"
        ratios = [_ratio(results["runs"], program, images, kind) for kind in KINDS]
        rows.append([str(images), program, number, *cells, *ratios])
    return grid(["images", "program", "runs", "wall s", "CPU s", "wall × peer", "CPU × peer"], rows, 2)


KINDS = ("seconds", "processor_seconds")
ABOUT = (
    "From the command to files on the disk, inputs in the page cache. Median (smallest – largest). `float32`, `bfloat16`: this"
    " project at that precision, with a data set and a head that were prepared before (last table)."
)


def _ratio(runs: Sequence[Run], program: str, images: int, kind: str) -> str:
    ours, peer = middle(runs, program, images, kind), middle(runs, PEER, images, kind)
    return f"{ours / peer:.3f}" if ours and peer and program != PEER else ""


def line(runs: Sequence[Run], program: str, kind: str) -> tuple[float, float] | None:
    """Return fixed cost and cost of an image, from the least and the most images; None for one number."""
    few, many = (pick(run["images"] for run in runs) for pick in (min, max))
    low, high = middle(runs, program, few, kind), middle(runs, program, many, kind)
    if few == many or low is None or high is None:
        return None
    each = (high - low) / (many - few)
    return low - each * few, each


def _lines(results: Mapping[str, Any]) -> list[str]:
    runs, rows = results["runs"], []
    peers = [line(runs, PEER, kind) for kind in KINDS]
    for program in dict.fromkeys(run["program"] for run in runs):
        cells = []
        for kind, peer in zip(KINDS, peers, strict=True):
            found = line(runs, program, kind)
            if found is None:
                return []
            shown = peer is not None and program != PEER
            whole = _whole(found) / _whole(peer) if shown and peer else None
            cells += [f"{found[0]:.1f}", f"{1e3 * found[1]:.1f}", f"{found[1] / peer[1]:.3f}" if shown and peer else ""]
            cells += [f"{whole:.3f}" if whole else ""]
        rows.append([program, *cells])
    head = ["program", "wall s a run", "ms an image", "× peer", f"{TEST_IMAGES:,} images × peer"]
    head += ["CPU s a run", "ms an image", "× peer", f"{TEST_IMAGES:,} images × peer"]
    about = (
        f"The line through the fewest and the most images; {TEST_IMAGES:,} are the test images of the eight tasks (extrapolated)."
    )
    return ["## A run and an image", "", about, "", *grid(head, rows), ""]


def _whole(found: tuple[float, float]) -> float:
    return found[0] + TEST_IMAGES * found[1]


def _parts(runs: Sequence[Run]) -> list[str]:
    """Describe the time of FusionBench by its parts."""
    found = [run for run in runs if run["program"] == PEER and run["parts"]]
    if not found:
        return []
    rows = []
    for images in dict.fromkeys(run["images"] for run in found):
        parts = [run["parts"] for run in found if run["images"] == images]
        rows.append([str(images), *(f"{median(part[name] for part in parts):.1f}" for name in parts[0])])
    head = ["images", *(f"{name} s" for name in found[0]["parts"])]
    return ["## Where FusionBench's wall time goes", "", *grid(head, rows), ""]


def _once(results: Mapping[str, Any]) -> list[str]:
    """Describe the cost of the preparation and the number of evaluations that repay it."""
    made, runs = results["made"], results["runs"]
    rows = [[name, f"{taken['seconds']:.1f}", f"{taken['processor_seconds']:.1f}"] for name, taken in made.items()]
    lines = ["## What is prepared once", "", *grid(["what", "wall s", "CPU s"], rows), ""]
    for program in dict.fromkeys(run["program"] for run in runs):
        images = max(run["images"] for run in runs)
        ours, peer = middle(runs, program, images, KINDS[1]), middle(runs, PEER, images, KINDS[1])
        if ours and peer and program != PEER:
            first = made["head"][KINDS[1]] + made[f"{images} images"][KINDS[1]]
            number = math.ceil(first / (peer - ours)) if peer > ours else math.inf
            lines += [f"Data set and head of {images} images have paid after {number} evaluations in {program} (CPU time).", ""]
    return lines
