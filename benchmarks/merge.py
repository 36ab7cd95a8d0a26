"""Compare whole merges, from the command to durable files, with other programs and with the floor of the machine.

All programs run in turn, in another order each round; inputs are read once before every run (or dropped from the page
cache with --cold). Before the clock starts, every program merges tiny models once: ours compiles its kernels then.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.cases import Case, add_options, facts, made, models, positive, tiny
from benchmarks.harness import cool, turn, warm
from benchmarks.layers import layers_table
from benchmarks.programs import ELEMENTWISE, OURS, Program, hidden, programs, run
from benchmarks.shapes import MODELS
from benchmarks.tables import merge_table, save
from nan_merge.core.command_line import command_line
from nan_merge.core.errors import UserError


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, measure every size, and write the results."""
    args = arguments().parse_args(argv)
    peers = {name: path for name, path in (("mergekit", args.mergekit), ("fusion-bench", args.fusionbench)) if path}
    often = peer_rounds(args.peer_rounds)
    results: dict[str, Any] = {"facts": facts(args.folder, peers), "cases": []}
    try:
        for size, layers in itertools.product(args.size, args.layers or [None]):
            with models(size, args.experts, args.folder, layers=layers, keep=args.keep) as case:
                chosen = programs(case, args.methods, args.rounds, peers, often)
                about = {**case.record(), "cold": args.cold, "asked": layers, "traffic": case.traffic}
                results["cases"].append({**about, "commands": commands(chosen, case), "runs": []})
                study(case, chosen, args.cold, args.limit, results["cases"][-1]["runs"])
    finally:  # someone may end it before its time
        results["cases"] = [case for case in results["cases"] if case["runs"]]
        if results["cases"]:
            save(args.output / args.name, results, merge_table(results) + layers_table(results["cases"]))
    runs = [run for case in results["cases"] for run in case["runs"] if run["program"] in ("ours", "floor")]
    if faults := sorted({f"{run['method']}: {run['outcome']}" for run in runs if run["outcome"] != "ok"}):
        raise UserError(f"our own program did not end well: {'; '.join(faults)}")


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        "benchmarks.merge", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--size", nargs="+", choices=MODELS, default=["1B"], help="one or several; cut to fewer layers if the disk is small")
    add("--experts", type=positive, default=3)
    number = functools.partial(positive, least=0)
    add("--layers", nargs="+", type=number, metavar="N", help="cut the models to N layers, from 0; two or more give a line")
    add("--methods", nargs="+", choices=OURS, default=list(ELEMENTWISE))
    add("--rounds", type=positive, default=5)
    add("--peer-rounds", nargs="+", default=[], metavar="[METHOD=]N", help="peers take part in the first N rounds only")
    add("--mergekit", type=Path, metavar="PYTHON", help="of an environment with mergekit: LLaMA shapes")
    add("--fusionbench", type=Path, metavar="PYTHON", help="of an environment with fusion-bench: CLIP shapes, and TSV-M")
    add("--cold", action="store_true", help="drop the inputs from the page cache before every run")
    add("--limit", type=float, default=1800, metavar="SECONDS", help="a run that takes longer is ended (%(default)s)")
    add("--name", default="merge", help="of the files in --output")
    add_options(parser)
    return parser


def peer_rounds(words: Sequence[str]) -> dict[str, int]:
    """Read `N` for all methods or `METHOD=N` for one: {method: rounds}."""
    found: dict[str, int] = {}
    for word in words:
        method, _, number = word.rpartition("=")
        if not number.isdigit() or (method and method not in OURS):
            raise UserError(f"--peer-rounds {word}: expected a number or one of {', '.join(OURS)} with a number, as in ties=1")
        found |= {method: int(number)} if method else dict.fromkeys(OURS, int(number))
    return found


def study(case: Case, chosen: Sequence[Program], cold: bool, limit: float, runs: list[dict[str, Any]]) -> None:
    """Run all programs in turn and add their measurements to `runs`, in the order of the runs."""
    print(f"{case.size}: {case.count} experts, {case.model.layers} layers", flush=True)
    with made(tiny(case)) as small:
        for program in chosen:
            outcome = run(program, small, limit=limit).outcome
            if outcome != "ok":
                print(f"before the clock starts: {program.name} {program.method}: {outcome}", flush=True)
    for number in range(max(program.rounds for program in chosen)):
        for program in turn([program for program in chosen if number < program.rounds], number):
            (cool if cold else warm)(case.files)
            found = run(program, case, limit=limit)
            print(f"round {number + 1}: {program.name} {program.method}: {found.outcome}, {found.seconds:.2f} s", flush=True)
            runs.append({"round": number + 1, "program": program.name, "method": program.method, **dataclasses.asdict(found)})


def commands(chosen: Sequence[Program], case: Case) -> dict[str, str]:
    """Return the command lines without folders of this machine, by program and method."""
    found = {}
    for program in chosen:
        first, *words = program.command(case)
        found[f"{program.name} {program.method}".strip()] = hidden(" ".join([Path(first).name, *words]), case)
    return found


if __name__ == "__main__":
    command_line(main)
