"""Compare pairs of methods on the same test examples."""

import argparse
from pathlib import Path

from nan_merge.core.command_line import command_line
from nan_merge.reporting.paired_tests import compare_methods
from nan_merge.reporting.study import argument, training_sizes


def main() -> None:
    """Read the command line and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scores", nargs="+", required=True, metavar="FILE.json", help="predictions lie beside, as .npz")
    parser.add_argument("--pairs", required=True, metavar="JSON", help='[{"suite", "method", "against", "kind"}, ...]')
    parser.add_argument("--suites", default="[]", metavar="JSON", help="suites with their tasks, for training-set sizes")
    parser.add_argument("--datasets", nargs="*", default=[], type=Path, help="dataset.json of each task: training-set sizes")
    parser.add_argument("--output", required=True, metavar="FILE.tsv")
    arguments = parser.parse_args()
    sizes = training_sizes(argument(arguments.suites), arguments.datasets)
    compare_methods(arguments.scores, argument(arguments.pairs), arguments.output, sizes)


if __name__ == "__main__":
    command_line(main)
