"""Render one printed table beside what was measured as CSV, Markdown and LaTeX."""

import argparse

from nan_merge.core.command_line import command_line
from nan_merge.reporting.published.tables import render_published
from nan_merge.reporting.study import argument, studies


def main() -> None:
    """Read the command line and render; without scores the table holds the printed numbers alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", required=True, metavar="JSON", help="its record of config/tables.yaml and its id")
    parser.add_argument("--published", required=True, metavar="FILE.tsv", help="the printed numbers")
    parser.add_argument("--scores", metavar="FILE.tsv")
    parser.add_argument("--suites", default="[]", metavar="JSON", help="those with `published` and `collection` are compared")
    parser.add_argument("--methods", default="[]", metavar="JSON", help="in the order of the rows")
    parser.add_argument("--output", required=True, metavar="PREFIX", help="written as .csv, .md and .tex")
    given = parser.parse_args()
    found = studies(argument(given.suites), argument(given.methods), given.scores) if given.scores else []
    render_published(argument(given.table), given.published, found, given.output)


if __name__ == "__main__":
    command_line(main)
