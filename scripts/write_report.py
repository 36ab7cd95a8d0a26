"""Write the report: one self-contained page over all suites."""

import argparse

from nan_merge.core.command_line import command_line
from nan_merge.reporting.report import write_report
from nan_merge.reporting.study import argument, studies


def main() -> None:
    """Read the command line and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suites", required=True, metavar="JSON", help="list of suites, one section each")
    parser.add_argument("--methods", required=True, metavar="JSON", help="in the order of the rows")
    parser.add_argument("--scores", required=True, metavar="FILE.tsv")
    parser.add_argument("--comparisons", metavar="FILE.tsv")
    for name in ("tables", "figures", "published", "coefficients", "measures", "datasets", "premise"):
        parser.add_argument(f"--{name}", nargs="*", default=[], metavar="FILE")
    parser.add_argument("--provenance", required=True, metavar="JSON", help="versions, digests, licences")
    parser.add_argument("--output", required=True, metavar="FILE.html")
    arguments = vars(parser.parse_args())
    tables, figures, published = (arguments.pop(name) for name in ("tables", "figures", "published"))
    provenance, output = argument(arguments.pop("provenance")), arguments.pop("output")
    suites, methods = argument(arguments.pop("suites")), argument(arguments.pop("methods"))
    write_report(studies(suites, methods, **arguments), methods, tables, figures, provenance, output, published)


if __name__ == "__main__":
    command_line(main)
