"""`nan-merge methods`: list the catalogue, or show one method."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from nan_merge.cli.parser import command_parser

ABOUT = "List every method with one line, or show the operators, the paper and the needs of one."


def main(argv: Sequence[str]) -> None:
    """Parse the command line and print."""
    parser = command_parser("methods", ABOUT, "nan-merge methods ties_nan_delta")
    parser.add_argument("method", nargs="?", metavar="ID", default=None, help="show this one")
    parser.add_argument("--json", action="store_true", default=False, help="print JSON")
    args = parser.parse_args(argv)
    import yaml

    from nan_merge.catalogue.files import known_names
    from nan_merge.catalogue.methods import methods
    from nan_merge.catalogue.places import catalogue_root

    records = methods(catalogue_root())
    if args.method is None:
        print(json.dumps(records, indent=1, ensure_ascii=False) if args.json else _list(records))
    else:
        known_names("methods", [args.method], records)
        shown = {args.method: records[args.method]}
        text = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=100).rstrip()
        print(json.dumps(shown, indent=1, ensure_ascii=False) if args.json else text)


def _list(records: dict[str, dict[str, Any]]) -> str:
    width = max(map(len, records))
    return "\n".join(f"{name:{width}}  {record['summary']}{_needs(record)}" for name, record in records.items())


def _needs(record: dict[str, Any]) -> str:
    """Say what a method needs besides models, so that it runs in the workflow only."""
    return "" if record["data"] == "none" else f" [needs {record['data']}]"
