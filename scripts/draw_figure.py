"""Draw one figure of one suite as SVG, PDF and PNG (rule draw_figure)."""

import argparse

from nan_merge.core.command_line import command_line
from nan_merge.reporting.figures import draw_figure
from nan_merge.reporting.study import studies
from scripts.arguments import METHODS, add_measured, parse_with_spec


def main() -> None:
    """Parse the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_measured(parser)
    parser.add_argument("--output", required=True, metavar="PREFIX", help="written as .svg, .pdf and .png")
    args = vars(parse_with_spec(parser, figure="entry of config/tables.yaml, with its id", suite="its record", methods=METHODS))
    figure, suite, methods, output = (args.pop(name) for name in ("figure", "suite", "methods", "output"))
    draw_figure(studies([suite], methods, **args)[0], figure, output)


if __name__ == "__main__":
    command_line(main)
