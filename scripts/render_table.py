"""Render one table of one suite as CSV, Markdown and LaTeX (rule render_table)."""

import argparse
from typing import Any

from nan_merge.core.command_line import command_line
from nan_merge.reporting.paired_tests import read_answers
from nan_merge.reporting.study import Study, studies
from nan_merge.reporting.subset_data import read_subsets
from nan_merge.reporting.tables import render_table
from scripts.arguments import METHODS, add_measured, parse_with_spec


def main() -> None:
    """Parse the command line and render."""
    render_table(*parsed(argparse.ArgumentParser(description=__doc__), "table", "written as .csv, .md and .tex"))


def parsed(parser: argparse.ArgumentParser, kind: str, written: str) -> tuple[Study, dict[str, Any], str]:
    """Parse the command line of a table or figure: the study of its suite, its record, and the prefix of the output."""
    add_measured(parser)
    add = parser.add_argument
    add("--predictions", nargs="*", default=[], metavar="FILE.json", help="score files; predictions lie beside, as .npz")
    add("--subsets", nargs="*", default=[], metavar="FILE.json", help="score files of subsets, with predictions alike")
    add("--output", required=True, metavar="PREFIX", help=written)
    spec = {kind: "entry of config/tables.yaml, with its id", "suite": "its record", "methods": METHODS}
    args = vars(parse_with_spec(parser, **spec))
    record, suite, methods, output, predictions, subsets = (
        args.pop(name) for name in (*spec, "output", "predictions", "subsets")
    )
    (study,) = studies([suite], methods, **args)
    study.answers = read_answers(predictions)[0] | read_subsets(subsets)
    return study, record, output


if __name__ == "__main__":
    command_line(main)
