"""Compare pairs of methods on the same test examples (rule compare_methods)."""

import argparse
from pathlib import Path

from nan_merge.core.command_line import command_line
from nan_merge.reporting.paired_tests import compare_methods
from nan_merge.reporting.study import training_sizes
from scripts.arguments import parse_with_spec


def main() -> None:
    """Parse the command line and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scores", nargs="+", required=True, metavar="FILE.json", help="predictions lie beside, as .npz")
    parser.add_argument("--datasets", nargs="*", default=[], type=Path, help="dataset.json of each task: training-set sizes")
    parser.add_argument("--output", required=True, metavar="FILE.tsv")
    args = parse_with_spec(
        parser, pairs='[{"suite", "method", "against", "kind"}, ...]', suites="with their tasks, for training-set sizes"
    )
    compare_methods(args.scores, args.pairs, args.output, training_sizes(args.suites, args.datasets))


if __name__ == "__main__":
    command_line(main)
