"""Score language models on benchmarks of lm_eval (rule evaluate_benchmark).

Beside the scores, a JSON file, lie every answer (.npz) and every output (.jsonl.gz).
"""

import argparse
from pathlib import Path

from nan_merge.core.command_line import command_line
from nan_merge.core.errors import UserError
from nan_merge.core.scoring import BENCHMARK_BATCH
from nan_merge.models.benchmark_scores import Scoring, score
from nan_merge.models.harness.tasks import benchmarks_of
from scripts.arguments import options, parse_with_spec


def main() -> None:
    """Parse the command line and score."""
    args = parse_with_spec(
        arguments(),
        benchmarks="entries `harness:` of tasks, each with `id` and, of several, its number of `folders`",
        settings="`harness:` of the suite",
    )
    if len(args.checkpoints) not in (1, len(args.benchmarks)):
        raise UserError(
            f"--checkpoints: expected 1 or {len(args.benchmarks)}, as many as benchmarks; found {len(args.checkpoints)}"
        )
    benchmarks = benchmarks_of(args.benchmarks, args.data)
    scoring = Scoring(
        device=args.device, precision=args.precision, batch_size=args.batch_size, settings=args.settings, cache=args.cache
    )
    score(scoring, args.checkpoints, benchmarks, {k: vars(args)[k] for k in ("suite", "method", "seed")}, args.scores)


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = options(__doc__, "checkpoints", "data", "device", "precision", "suite", "method", "seed", "scores")
    parser.add_argument("--batch-size", type=int, default=BENCHMARK_BATCH)
    parser.add_argument("--cache", type=Path, required=True, help="folder of answers that were given already")
    return parser


if __name__ == "__main__":
    command_line(main)
