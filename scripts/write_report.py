"""Write the report: one self-contained page over all suites (rule write_report)."""

import argparse

from nan_merge.core.command_line import command_line
from nan_merge.reporting.report import write_report
from nan_merge.reporting.study import studies
from scripts.arguments import METHODS, add_measured, parse_with_spec


def main() -> None:
    """Parse the command line and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_measured(parser)
    for name in ("tables", "figures", "published", "predictions", "examples"):
        parser.add_argument(f"--{name}", nargs="*", default=[], metavar="FILE")
    parser.add_argument("--output", required=True, metavar="FILE.html")
    keys = {
        "suites": "records, one section each",
        "methods": METHODS,
        "provenance": "digests, licences, settings",
        "claims": "config/claims.yaml with the contrasts of the run",
    }
    args = vars(parse_with_spec(parser, **keys))
    suites, methods, provenance, claims = (args.pop(name) for name in keys)
    parts = ("tables", "figures", "output", "published", "predictions", "examples")
    files = {name: args.pop(name) for name in parts}
    data = [file for file in (args["scores"], args["comparisons"]) if file]
    write_report(studies(suites, methods, **args), methods, provenance=provenance, claims=claims, data=data, **files)


if __name__ == "__main__":
    command_line(main)
