"""Measure what each method that needs no data costs on the experts of the text suite, whole processes, the slowest first.

The models are those of `make demo`: results/checkpoints/text, or another folder with `pretrained` and `seed0`.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.cases import ROOT, facts, positive
from benchmarks.harness import Measurement, measure
from benchmarks.programs import VARIABLES
from benchmarks.tables import grid, machine, others, save
from nan_merge.catalogue.methods import Catalogue, unfit
from nan_merge.core.command_line import command_line
from nan_merge.core.errors import UserError

FIRST = "task_arithmetic"  # merged once before the clock starts


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, and write the results."""
    parser = argparse.ArgumentParser("benchmarks.methods", description=__doc__)
    add = parser.add_argument
    add("--models", type=Path, default=ROOT / "results/checkpoints/text", help="folder of the base and of seed0 with the experts")
    add("--methods", nargs="+", default=None, help="ids; by default all hosts that need no data")
    add("--rounds", type=positive, default=1)
    add("--output", type=Path, default=ROOT / "benchmarks/results", help="folder of the JSON and the table")
    args = parser.parse_args(argv)
    experts = sorted(path for path in args.models.glob("seed0/*") if path.is_dir() and path.name != "multitask")
    if not experts:
        raise UserError(f"{args.models}: no experts in seed0; run `make demo` first, or name a folder with --models")
    methods = args.methods or without_data(len(experts))
    merge(FIRST, args.models, experts, args.output)
    results: dict[str, Any] = {"facts": facts(args.models), "models": args.models.name, "experts": len(experts), "runs": []}
    try:
        for method in methods * args.rounds:
            run = {"method": method, **dataclasses.asdict(merge(method, args.models, experts, args.output))}
            print(f"{method}: {run['outcome']}, {run['processor_seconds']:.1f} CPU s", flush=True)
            results["runs"].append(run)
    finally:  # someone may end it before its time
        if results["runs"]:
            save(args.output / "methods", results, methods_table(results))


def without_data(experts: int) -> list[str]:
    """Return the hosts that one command merges: static, without data, no sweep, for so many experts."""
    catalogue = Catalogue(ROOT)
    entries = {name: catalogue.entry(name) for name in catalogue.hosts}
    single = {name: entry for name, entry in entries.items() if entry["static"] and not {"scan", "draws", "tune"} & set(entry)}
    free = {name: entry for name, entry in single.items() if entry["data"] == "none" and entry["group"] != "reference"}
    return [name for name, entry in free.items() if not unfit(entry, experts)]


def merge(method: str, models: Path, experts: Sequence[Path], output: Path) -> Measurement:
    """Measure one merge by the command that users type."""
    named = [word for expert in experts for word in ("--expert", str(expert))]
    words = ["--base", str(models / "pretrained"), *named, "--method", method, "--threads", "1"]
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output) as folder:  # on the disk of the results, gone also where it is ended
        place = Path(folder) / "merged"
        command = [sys.executable, "-m", "nan_merge.cli", "merge", *words, "--output", str(place)]
        return measure(command, place, folder=ROOT, variables=VARIABLES, limit=1800)


def methods_table(results: Mapping[str, Any]) -> str:
    """Return the table of the costs with its heading."""
    return "\n".join(["# Every method without data", "", machine(results["facts"]), "", *costs(results), ""])


def costs(results: Mapping[str, Any]) -> list[str]:
    """Return a sentence with the slowest method, and processor time, wall time and anonymous memory by method, it first."""
    lines, runs = [], results["runs"]
    for method in dict.fromkeys(run["method"] for run in runs):
        own = [run for run in runs if run["method"] == method]
        bad = next((run["outcome"] for run in own if run["outcome"] != "ok"), "")
        numbers = [median(run[key] for run in own) for key in ("processor_seconds", "seconds", "anonymous")]
        lines.append((numbers[0], [f"`{method}`", bad or f"{numbers[0]:.1f}", f"{numbers[1]:.1f}", f"{numbers[2] / 1e6:.0f}"]))
    rows = [cells for _, cells in sorted(lines, key=lambda line: -line[0])]
    slowest, middle = max(lines), median(seconds for seconds, _ in lines)
    about = (
        f"{results['experts']} experts of the suite `{results['models']}`, one thread, from the command to durable files. The"
        f" slowest is {slowest[1][0]} with {slowest[0]:.0f} CPU s; the median of all {len(lines)} is {middle:.1f}. {others(runs)}"
    )
    return [about, "", *grid(["method", "CPU s", "wall s", "anonymous MB"], rows)]


if __name__ == "__main__":
    command_line(main)
