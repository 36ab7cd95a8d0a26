"""Compare scoring with its forward passes alone, on the prepared tasks and the pretrained model of suites that were run.

    python -m benchmarks.scoring text vision

The models and data are those of `make demo` and `make demo-vision`, in results/ of the folder where it is called.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.cases import ROOT, facts, positive
from benchmarks.harness import in_turn
from benchmarks.tables import grid, machine, save
from nan_merge.core.command_line import command_line
from nan_merge.core.errors import UserError
from nan_merge.core.scoring import BATCH
from nan_merge.core.text import read_yaml

PARTS = ("forward", "loop")
HEAD = ("suite", "examples", "forward, examples/s", "loop, examples/s", "speed of the forward passes", "by processor time")


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, measure every suite, and write the results."""
    parser = argparse.ArgumentParser(
        "benchmarks.scoring", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suites", nargs="+", metavar="SUITE", help="that was run, with encoders and prepared tasks")
    parser.add_argument("--results", type=Path, default=Path("results"), help="of the run (%(default)s)")
    parser.add_argument("--examples", type=positive, default=1000, help="of a task at most (%(default)s)")
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results", help="folder of the JSON and the table")
    args = parser.parse_args(argv)
    results: dict[str, Any] = {"facts": facts(args.results), "rounds": []}
    for suite in args.suites:
        results["rounds"] += measure(args.results, suite, args.examples, args.rounds)
        save(args.output / "scoring", results, scoring_table(results))


def measure(results: Path, suite: str, most: int, rounds: int) -> list[dict[str, Any]]:
    """Return the seconds of every round, wall and processor, of all tasks of a suite on one thread.

    `forward` is the encoder on batches that lie in memory, `loop` everything from the mapped file to the embeddings.
    """
    import torch

    from nan_merge.data.dataset import Dataset
    from nan_merge.models.classification import Forward, embed
    from nan_merge.models.registry import find_family

    record = read_yaml(results / "run_config.yaml")["suites"].get(suite, {})
    folders = sorted((results / "datasets" / record.get("data", suite)).glob("*"))
    if not folders:
        raise UserError(
            f"{results}: no prepared tasks of the suite {suite!r}; run it first, or name another folder with --results"
        )
    module, forward = find_family(record["family"]), Forward()
    encoder = module.load(results / "checkpoints" / suite / "pretrained")
    inputs = [Dataset(folder).inputs("test")[:most] for folder in folders]
    batches = [module.batches(each, BATCH) for each in inputs]
    ready = [np.asarray(each[batch]) for each, of_task in zip(inputs, batches, strict=True) for batch in of_task]

    def alone() -> None:
        with torch.inference_mode(), forward.place(encoder):
            for batch in ready:
                encoder(batch)

    def loop() -> None:
        for each, of_task in zip(inputs, batches, strict=True):
            embed(encoder, each, of_task, forward)

    found = in_turn(dict(zip(PARTS, (alone, loop), strict=True)), rounds)
    return [{"suite": suite, "examples": sum(map(len, inputs)), **each} for each in found]


def scoring_table(results: dict[str, Any]) -> str:
    """Return the page of the results."""
    about = (
        "In one process on one thread, in turn. The forward passes are on batches in memory, the loop is everything from the"
        " mapped file to the embeddings. The speed is the median over the rounds of the forward passes' time over the loop's."
    )
    return "\n".join(["# Scoring", "", machine(results["facts"]), "", about, "", *speeds(results), ""])


def speeds(results: dict[str, Any]) -> list[str]:
    """Return the table of speeds by suite."""
    rows = []
    for suite in dict.fromkeys(each["suite"] for each in results["rounds"]):
        forward, loop = ([each for each in results["rounds"] if (each["suite"], each["part"]) == (suite, part)] for part in PARTS)
        examples = forward[0]["examples"]
        rates = [f"{median(examples / each['wall'] for each in part):.1f}" for part in (forward, loop)]
        pairs = list(zip(forward, loop, strict=True))  # of one round
        ratios = [f"{median(one[kind] / other[kind] for one, other in pairs):.3f}" for kind in ("wall", "processor")]
        rows.append([suite, f"{examples:,}", *rates, *ratios])
    return grid(HEAD, rows)


if __name__ == "__main__":
    command_line(main)
