"""Translate a mergekit config: print the merge_models command and the method; with --output, merge.

Supported are linear, task_arithmetic, ties, dare_linear and dare_ties over whole models. Arguments after FILE are passed
to merge_models (--output, --threads, --device, ...).
"""

import argparse
import itertools
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from nan_merge.catalogue.files import read_yaml
from nan_merge.core.command_line import command_line
from nan_merge.methods.recipe import DEFAULTS, operator_of
from nan_merge.standalone.mergekit_import import MergekitConfig, translate
from scripts import merge_models


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, print the translation, and merge if there is an output."""
    parser = argparse.ArgumentParser("import_mergekit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="FILE", help="mergekit config")
    args, rest = parser.parse_known_args(argv)
    request = translate(read_yaml(args.file), str(args.file))
    for note in request.notes:
        print(f"note: {note}", file=sys.stderr)
    command = merge_arguments(request)
    print(f"python -m scripts.merge_models {shlex.join([*command, *(rest or ['--output', 'OUTPUT'])])}\n")
    print("# the same as an entry of config/methods.yaml")
    print(yaml.safe_dump(entry(request, args.file), sort_keys=False, allow_unicode=True), end="")
    if rest:
        merge_models.main([*command, *rest])


def merge_arguments(request: MergekitConfig) -> list[str]:
    """Return the arguments of merge_models for a mergekit config."""
    options = [("--expert", f"{name}={model}") for name, model in request.experts.items()]
    options += [("--method", request.host)]
    options += [("--set", each) for each in assignments(merge_models.method(request.host), request.method_spec)]
    return ["--base", request.base, *itertools.chain(*options), *(["--dtype", request.dtype] if request.dtype else [])]


def assignments(host: Mapping[str, Any], method_spec: Mapping[str, Any]) -> list[str]:
    """Return the values of --set that turn the spec of a host into another."""
    values = []
    for stage, default in DEFAULTS.items():
        (current, old), (operator, new) = (operator_of(record.get(stage, default), stage) for record in (host, method_spec))
        if (current, old) == (operator, new):
            continue
        if new and (operator != current or old.keys() <= new.keys()):
            values += [f"{stage}.{operator}.{key}={_flow(value)}" for key, value in new.items()]
        else:
            values.append(f"{stage}={_flow({operator: new}) if new else operator}")
    return values


def entry(request: MergekitConfig, file: Path) -> dict[str, Any]:
    """Return the mergekit config as an entry of config/methods.yaml."""
    name = "".join(letter if letter.isalnum() else "_" for letter in file.stem.lower()).strip("_")
    return {f"mergekit_{name}": {"label": f"mergekit {file.stem}", "summary": f"{file.name}, translated", **request.method_spec}}


def _flow(value: Any) -> str:
    return (
        yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True).removesuffix("\n").removesuffix("\n...")
    )


if __name__ == "__main__":
    command_line(main)
