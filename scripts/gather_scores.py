"""Gather score files into one tidy table."""

import argparse

from merging.reporting.records import gather_scores
from merging.results import command_line


def main() -> None:
    """Read the command line and gather."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scores", nargs="+", required=True, metavar="FILE.json")
    parser.add_argument("--output", required=True, metavar="FILE.tsv")
    arguments = parser.parse_args()
    gather_scores(arguments.scores, arguments.output)


if __name__ == "__main__":
    command_line(main)
