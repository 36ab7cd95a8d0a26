"""Render one table of one suite as CSV, Markdown and LaTeX (rule render_table)."""

import argparse

from nan_merge.core.command_line import command_line
from nan_merge.reporting.paired_tests import read_answers
from nan_merge.reporting.study import studies
from nan_merge.reporting.tables import render_table
from scripts.arguments import METHODS, add_measured, parse_with_spec


def main() -> None:
    """Parse the command line and render."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_measured(parser)
    parser.add_argument(
        "--predictions", nargs="*", default=[], metavar="FILE.json", help="score files; predictions lie beside, as .npz"
    )
    parser.add_argument("--output", required=True, metavar="PREFIX", help="written as .csv, .md and .tex")
    args = vars(parse_with_spec(parser, table="entry of config/tables.yaml, with its id", suite="its record", methods=METHODS))
    table, suite, methods, output, files = (args.pop(name) for name in ("table", "suite", "methods", "output", "predictions"))
    (study,) = studies([suite], methods, **args)
    study.answers = read_answers(files)[0]
    render_table(study, table, output)


if __name__ == "__main__":
    command_line(main)
