"""`nan-merge methods`: list the catalogue, or show one method."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from nan_merge.cli.parser import command_parser

ABOUT = """List every host and every variant with one line, or show the operators, the paper and the needs of a method.
A variant goes on a host, as in ties+nan_delta."""


def main(argv: Sequence[str]) -> None:
    """Parse the command line and print."""
    parser = command_parser("methods", ABOUT, "nan-merge methods ties+nan_delta")
    parser.add_argument("method", nargs="?", metavar="ID", default=None, help="show this one")
    parser.add_argument("--json", action="store_true", default=False, help="print JSON")
    args = parser.parse_args(argv)
    import yaml

    from nan_merge.catalogue.methods import REFERENCES, Catalogue, takes
    from nan_merge.catalogue.places import catalogue_root

    catalogue = Catalogue(catalogue_root())
    variants = catalogue.described_variants()
    if args.method in variants:
        found: dict[str, Any] = {args.method: variants[args.method]}
    else:
        found = (
            {
                name: record if name in REFERENCES else {**record, "takes": takes(record)}
                for name, record in catalogue.members(args.method, "methods").items()
            }
            if args.method
            else {"hosts": catalogue.all(), "variants": variants}
        )
    if args.json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
    elif args.method:
        yaml.SafeDumper.ignore_aliases = lambda *_: True
        print(yaml.safe_dump(found, sort_keys=False, allow_unicode=True, width=100).rstrip())
    else:
        print("hosts:", *_list(found["hosts"]), "", "variants, as host+variant:", *_list(found["variants"]), sep="\n")


def _list(records: Mapping[str, Mapping[str, Any]]) -> list[str]:
    width = max(map(len, records))
    return [f"  {name:{width}}  {record['summary']}{_needs(record)}" for name, record in records.items()]


def _needs(record: Mapping[str, Any]) -> str:
    """Say what a method needs besides models, and that it stands for several."""
    draws = f" [{record['draws']} draws: _1, _2, ...]" if "draws" in record else ""
    return draws + ("" if record.get("data", "none") == "none" else f" [needs {record['data']}]")
