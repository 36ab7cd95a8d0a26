"""`nan-merge import-mergekit`: translate a mergekit config into a command and a method, or merge by it."""

from __future__ import annotations

import itertools
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nan_merge.cli import merge
from nan_merge.cli.parser import command_parser

if TYPE_CHECKING:
    from nan_merge.standalone.mergekit_import import MergekitConfig

ABOUT = """Translate a mergekit config: linear, task_arithmetic, ties, dare_linear, dare_ties over whole models.
Without options, print the command that merges and the method; with --output, merge."""


def main(argv: Sequence[str]) -> None:
    """Parse the command line, and print the translation, or merge where options of a merge are given."""
    parser = command_parser(
        "import-mergekit", ABOUT, "nan-merge import-mergekit FILE --output MERGED", "nan-merge import-mergekit FILE [options]"
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="mergekit config")
    parser.add_argument_group(
        "options of a merge", "--output, --set, --threads, --device, --json, ...: see nan-merge merge --help"
    )
    args, rest = parser.parse_known_args(argv)
    import yaml

    from nan_merge.catalogue.files import read_yaml
    from nan_merge.standalone.mergekit_import import translate

    request = translate(read_yaml(args.file), str(args.file))
    for note in request.notes:
        print(f"note: {note}", file=sys.stderr)
    command = merge_arguments(request)
    if rest:
        merge.main([*command, *rest], "import-mergekit")
        return
    print(f"nan-merge merge {shlex.join([*command, '--output', 'OUTPUT'])}\n")
    print("# the same as an entry of config/methods.yaml")
    print(yaml.safe_dump(entry(request, args.file), sort_keys=False, allow_unicode=True), end="")


def merge_arguments(request: MergekitConfig) -> list[str]:
    """Return the arguments of `nan-merge merge` for a mergekit config."""
    from nan_merge.standalone.method import record

    options = [("--expert", f"{name}={model}") for name, model in request.experts.items()]
    options += [("--method", request.host)]
    options += [("--set", each) for each in assignments(record(request.host), request.method_spec)]
    return ["--base", request.base, *itertools.chain(*options), *(["--dtype", request.dtype] if request.dtype else [])]


def assignments(host: Mapping[str, Any], method_spec: Mapping[str, Any]) -> list[str]:
    """Return the values of --set that turn the spec of a host into another."""
    from nan_merge.methods.recipe import STAGES, operator_in
    from nan_merge.standalone.method import flow

    values = []
    for stage in STAGES:
        (current, old), (operator, new) = (operator_in(each, stage) for each in (host, method_spec))
        if (current, old) == (operator, new):
            continue
        if new and (operator != current or old.keys() <= new.keys()):
            values += [f"{stage}.{operator}.{key}={flow(value)}" for key, value in new.items()]
        else:
            values.append(f"{stage}={flow({operator: new}) if new else operator}")
    return values


def entry(request: MergekitConfig, file: Path) -> dict[str, Any]:
    """Return the mergekit config as an entry of config/methods.yaml."""
    name = "".join(letter if letter.isalnum() else "_" for letter in file.stem.lower()).strip("_")
    return {f"mergekit_{name}": {"label": f"mergekit {file.stem}", "summary": f"{file.name}, translated", **request.method_spec}}
