"""Judge the claims of papers and write the page about them, and its numbers as CSV (rule write_claims)."""

import argparse

from nan_merge.core.command_line import command_line
from nan_merge.reporting.claims_page import write_claims
from nan_merge.reporting.study import studies
from scripts.arguments import METHODS, add_measured, parse_with_spec


def main() -> None:
    """Parse the command line and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_measured(parser)
    parser.add_argument("--output", required=True, metavar="PREFIX", help="written as .md and .csv")
    keys = {
        "suites": "records, in the order of the page",
        "methods": METHODS,
        "claims": "config/claims.yaml with the contrasts of the run",
    }
    args = vars(parse_with_spec(parser, **keys))
    suites, methods, claims, output = (args.pop(name) for name in (*keys, "output"))
    write_claims(studies(suites, methods, **args), claims, output)


if __name__ == "__main__":
    command_line(main)
