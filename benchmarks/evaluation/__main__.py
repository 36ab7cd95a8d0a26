"""Measure the cost of an evaluation: the batch loop against the bare forward pass, and whole processes against FusionBench.

    python -m benchmarks.evaluation --fusionbench PYTHON

`PYTHON` is that of an environment with FusionBench whose CLIP evaluator can be imported (benchmarks/README.md); without
it only this project runs.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.cases import add_options, facts, positive
from benchmarks.evaluation import loop, models, processes
from benchmarks.evaluation.processes import Bench
from benchmarks.evaluation.table import PEER, table
from benchmarks.tables import save
from nan_merge.core.command_line import command_line
from nan_merge.core.errors import UserError


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, make the models, measure, and write the tables."""
    args = arguments().parse_args(argv)
    bench = Bench(args.folder.resolve() / "evaluation", args.threads, args.batch, args.fusionbench)
    if bench.folder.exists():
        raise UserError(f"{bench.folder}: is there already, from a run that was ended or kept; remove it")
    peers = {PEER: args.fusionbench} if args.fusionbench else {}
    results: dict[str, Any] = {
        "facts": facts(args.folder, peers), "size": args.size, "threads": args.threads, "batch": args.batch, "agreement": {},
        "runs": [], "loop": [],
    }  # fmt: skip
    try:
        results["made"] = processes.make(bench, args.size, args.images)
        _measure(bench, args, results)
    finally:
        if not args.keep:
            shutil.rmtree(bench.folder, ignore_errors=True)
    if faults := sorted({run["outcome"] for run in results["runs"] if run["program"] != PEER and run["outcome"] != "ok"}):
        raise UserError(f"our own program did not end well: {'; '.join(faults)}")


def _measure(bench: Bench, args: argparse.Namespace, results: dict[str, Any]) -> None:
    """Fill in the results and write them after each measurement."""
    few = min(args.images)
    for precision in args.precision:
        results["loop"] += loop.measure(bench.model, bench.data(few), bench.head, bench.batch, precision, args.loop_rounds)
    commands = bench.programs(args.precision, few)
    results["commands"] = {name: bench.hidden(" ".join(words)) for name, words in commands.items()}
    found = {name: processes.predictions(bench, name, words) for name, words in commands.items()}
    first = next(iter(found.values()))
    results["agreement"] = {name: f"{int((each == first).sum())} of {len(first)}" for name, each in found.items()}
    for images in args.images:
        for run in processes.study(bench, args.precision, images, args.rounds, args.limit):
            results["runs"].append(run)
        save(args.output / args.name, results, table(results))


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        "benchmarks.evaluation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--size", choices=models.VISION, default="ViT-B-32")
    add("--images", type=positive, nargs="+", default=[256, 1024], help="of a data set; one or several")
    add("--precision", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"], help="of this project")
    add("--threads", type=positive, default=len(os.sched_getaffinity(0)), help="and processors of every program")
    add("--batch", type=positive, default=64, help="images at once, of this project")
    add("--rounds", type=positive, default=3)
    add("--loop-rounds", type=positive, default=5)
    add("--fusionbench", type=Path, metavar="PYTHON", help="of an environment with fusion-bench")
    add("--limit", type=float, default=1800, metavar="SECONDS", help="a run that takes longer is ended (%(default)s)")
    add("--name", default="evaluation", help="of the files in --output")
    add_options(parser)
    return parser


if __name__ == "__main__":
    command_line(main)
