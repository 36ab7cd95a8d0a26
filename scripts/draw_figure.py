"""Draw one figure of one suite as SVG and PNG."""

import argparse

from nan_merge.core.command_line import command_line
from nan_merge.reporting.figures import draw_figure
from nan_merge.reporting.study import argument, studies


def main() -> None:
    """Read the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--figure", required=True, metavar="JSON", help="its record of config/tables.yaml and its id")
    parser.add_argument("--suite", required=True, metavar="JSON")
    parser.add_argument("--methods", required=True, metavar="JSON", help="in the order of the rows")
    parser.add_argument("--scores", required=True, metavar="FILE.tsv")
    parser.add_argument("--comparisons", metavar="FILE.tsv")
    for name in ("coefficients", "measures", "datasets", "premise"):
        parser.add_argument(f"--{name}", nargs="*", default=[], metavar="FILE")
    parser.add_argument("--output", required=True, metavar="PREFIX", help="written as .svg and .png")
    arguments = vars(parser.parse_args())
    record, output = argument(arguments.pop("figure")), arguments.pop("output")
    suite, methods = argument(arguments.pop("suite")), argument(arguments.pop("methods"))
    draw_figure(studies([suite], methods, **arguments)[0], record, output)


if __name__ == "__main__":
    command_line(main)
