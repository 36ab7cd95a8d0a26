"""Compare operators that take matrices apart, in float64 and in float32, with the papers' formulas in torch, float32.

They run on the matrices of a model. Everything happens in one process on one thread, in turn, in memory: neither files nor
imports count. Every shape is measured once a round, and counts as often as the model has it.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks.cases import ROOT, facts, positive
from benchmarks.harness import turn
from benchmarks.plain import METHODS
from benchmarks.shapes import MODELS
from benchmarks.tables import machine, matrix_ratios, save
from nan_merge.core.command_line import command_line
from nan_merge.methods.ace import ace
from nan_merge.methods.context import TensorContext
from nan_merge.methods.covariance import actmat
from nan_merge.methods.spectral import cart, iso_c, tsv

OURS: dict[str, Callable[..., Any]] = {
    "tsv_m": tsv,
    "iso_c": iso_c,
    "cart": cart,
    "actmat": actmat,
    "ace": functools.partial(ace, normalise="always", refine="always"),
}
Shape = tuple[int, ...]


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, and write the results."""
    parser = argparse.ArgumentParser("benchmarks.matrices", description=__doc__)
    add = parser.add_argument
    add("--size", choices=MODELS, default="100M")
    add("--experts", type=positive, default=3)
    add("--methods", nargs="+", choices=OURS, default=list(OURS))
    add("--rounds", type=positive, default=3)
    add("--output", type=Path, default=ROOT / "benchmarks/results", help="folder of the JSON and the table")
    args = parser.parse_args(argv)
    shapes = Counter(shape for shape in MODELS[args.size].tensors().values() if len(shape) == 2)
    about = facts(args.output)
    about["versions"] |= {package: importlib.metadata.version(package) for package in ("scipy", "torch")}
    results: dict[str, Any] = {"facts": about, "size": args.size, "experts": args.experts, "shapes": []}
    with threadpool_limits(1):
        torch.set_num_threads(1)
        for shape, count in shapes.items():
            cells = measured(shape, args.experts, args.methods, args.rounds)
            results["shapes"].append({"shape": shape, "count": count, "methods": cells})
    save(args.output / "matrices", results, matrices_table(results))


def measured(shape: Shape, experts: int, methods: Sequence[str], rounds: int) -> dict[str, dict[str, Any]]:
    """Return for each method the processor seconds of ours and of torch, and the differences in float32 from ours in float64.

    A difference is the largest one over the largest number.
    """
    rng = np.random.default_rng(0)
    taus = [2e-4 * (1 + t) * rng.standard_normal(shape) for t in range(experts)]
    narrow = [tau.astype(np.float32) for tau in taus]
    found = {}
    for method in methods:
        settings = [1.0] * experts, TensorContext("layers.0.weight")
        programs = {
            "ours": functools.partial(OURS[method], taus, *settings),
            "ours float32": functools.partial(OURS[method], narrow, *settings),
            "torch": functools.partial(METHODS[method], [torch.from_numpy(tau) for tau in narrow]),
        }
        seconds: dict[str, list[float]] = {name: [] for name in programs}
        merged: dict[str, np.ndarray] = {}
        for number in range(rounds):
            for name in turn(list(programs), number):
                start = time.process_time()
                merged[name] = np.asarray(programs[name]())
                seconds[name].append(time.process_time() - start)
        print(f"{list(shape)} {method}: {', '.join(f'{name} {min(each):.2f} s' for name, each in seconds.items())}", flush=True)
        exact = merged.pop("ours")
        differences = {name: float(abs(each - exact).max() / abs(exact).max()) for name, each in merged.items()}
        found[method] = {"seconds": seconds, "differences": differences}
    return found


def matrices_table(results: Mapping[str, Any]) -> str:
    """Return the table with the machine and what the columns are."""
    about = (
        f"{results['experts']} experts, the matrices of {results['size']} on one thread. Processor seconds are the least of the"
        " rounds for every shape, times the number of such matrices; the columns of shapes are ratios of ours, in float64, to"
        " torch. An error is the largest difference from ours in float64 over the largest number."
    )
    title = "# Operators on matrices against the papers' formulas in torch, float32"
    return "\n".join([title, "", machine(results["facts"]), "", about, "", *matrix_ratios(results), ""])


if __name__ == "__main__":
    command_line(main)
