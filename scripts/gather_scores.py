"""Gather score files into one tidy table."""

import argparse

from nan_merge.core.command_line import command_line
from nan_merge.reporting.study import gather_scores


def main() -> None:
    """Read the command line and gather."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scores", nargs="+", required=True, metavar="FILE.json")
    parser.add_argument("--output", required=True, metavar="FILE.tsv")
    arguments = parser.parse_args()
    gather_scores(arguments.scores, arguments.output)


if __name__ == "__main__":
    command_line(main)
