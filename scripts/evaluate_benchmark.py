"""Score language models on benchmarks of lm_eval: accuracy and every answer (rule evaluate_benchmark)."""

import argparse
from pathlib import Path

from nan_merge.core.command_line import command_line
from nan_merge.core.errors import UserError
from nan_merge.core.scoring import BENCHMARK_BATCH, PRECISIONS
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
    parser = options(__doc__, "device", "suite", "method", "seed")
    parser.add_argument("--checkpoints", type=Path, nargs="+", required=True, help="one for all benchmarks, or one for each")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of the data, one or `folders` a benchmark")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="type of the weights")
    parser.add_argument("--batch-size", type=int, default=BENCHMARK_BATCH)
    parser.add_argument("--cache", type=Path, required=True, help="folder of answers that were given already")
    parser.add_argument("--scores", type=Path, required=True, help="FILE.json; answers, .npz, and outputs, .jsonl.gz, lie beside")
    return parser


if __name__ == "__main__":
    command_line(main)
