"""Compare the pass that measures norms with reading the same files, in one process and in turn, page cache warm.

The bytes read are those of the base and of every expert, once. Imports and the loading of compiled kernels do not count:
everything runs once before the clock starts.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.cases import add_options, facts, models, positive
from benchmarks.harness import BLOCK, turn
from benchmarks.shapes import MODELS
from benchmarks.tables import describe, grid, machine, save
from nan_merge.core.command_line import command_line
from nan_merge.core.parallel import available_processors, parallel_map
from nan_merge.engine import measure
from nan_merge.layouts.unify import unify_layout


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, and write the results."""
    parser = argparse.ArgumentParser("benchmarks.norms", description=__doc__)
    parser.add_argument("--size", choices=MODELS, default="1B")
    parser.add_argument("--experts", type=positive, default=3)
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--threads", type=positive, default=available_processors())
    add_options(parser)
    args = parser.parse_args(argv)
    with models(args.size, args.experts, args.folder, keep=args.keep) as case:
        total = sum(file.stat().st_size for file in case.files)
        opened = unify_layout(case.base, {expert.name: expert for expert in case.experts})
        passes: dict[str, Callable[[], object]] = {
            "read, 1 thread": lambda: read(case.files, 1),
            f"read, {args.threads} threads": lambda: read(case.files, args.threads),
            f"norms, {args.threads} threads": lambda: measure.norms(opened, threads=args.threads),
        }
        seconds = in_turn(passes, args.rounds)
        record = {**case.record(), "bytes_read": total, "seconds": seconds}
    results = {"facts": facts(args.folder), "case": record}
    save(args.output / "norms", results, norms_table(results))


def in_turn(passes: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Call everything once, then `rounds` times in turn, in another order each round: the seconds of every call."""
    for call in passes.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for number in range(rounds):
        for name in turn(list(passes), number):
            start = time.perf_counter()
            passes[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def read(files: Sequence[Path], threads: int) -> None:
    """Read files from the first byte to the last in blocks of 1 MiB, every thread a share of 16 MiB at a time."""
    spans = [(file, start) for file in files for start in range(0, file.stat().st_size, 16 * BLOCK)]
    handles = {file: os.open(file, os.O_RDONLY) for file in files}

    def worker() -> Callable[[tuple[Path, int]], None]:
        block = bytearray(BLOCK)

        def work(span: tuple[Path, int]) -> None:
            for offset in range(span[1], span[1] + 16 * BLOCK, BLOCK):
                os.preadv(handles[span[0]], [block], offset)

        return work

    parallel_map(spans, worker, threads)
    for handle in handles.values():
        os.close(handle)


def norms_table(results: dict[str, Any]) -> str:
    """Return the rates in GB/s and their ratios to reading with one thread."""
    case = results["case"]
    rates = {name: [case["bytes_read"] / s / 1e9 for s in seconds] for name, seconds in case["seconds"].items()}
    one = median(next(iter(rates.values())))
    rows = [[n, f"{median(r):.2f} ({min(r):.2f} – {max(r):.2f})", f"{median(r) / one:.2f}"] for n, r in rates.items()]
    about = "Median (smallest – largest) in one process, in turn; imports and loading of kernels are not counted."
    head = ["pass", "GB/s", "× read, 1 thread"]
    title = ["# Norms of weights and task vectors, against reading the files", "", machine(results["facts"]), ""]
    return "\n".join([*title, f"## {describe(case)}", "", about, "", *grid(head, rows), ""])


if __name__ == "__main__":
    command_line(main)
