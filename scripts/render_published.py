"""Render one printed table beside what was measured as CSV, Markdown and LaTeX (rule render_published)."""

import argparse

from nan_merge.core.command_line import command_line
from nan_merge.reporting.published.tables import render_published
from nan_merge.reporting.study import studies
from scripts.arguments import METHODS, parse_with_spec


def main() -> None:
    """Parse the command line and render; without scores the table holds the printed numbers alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--published", required=True, metavar="FILE.tsv", help="the printed numbers")
    parser.add_argument("--scores", metavar="FILE.tsv")
    parser.add_argument("--output", required=True, metavar="PREFIX", help="written as .csv, .md and .tex")
    args = parse_with_spec(
        parser,
        table="entry of config/tables.yaml, with its id",
        suites="records; those with `published` and `collection` are compared",
        methods=METHODS,
    )
    measured = studies(args.suites, args.methods, args.scores) if args.scores else []
    render_published(args.table, args.published, measured, args.output)


if __name__ == "__main__":
    command_line(main)
