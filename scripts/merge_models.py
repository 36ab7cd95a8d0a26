"""Merge models of your own, without a suite: folders or hub ids, by any method of config/methods.yaml.

The base is the model that the experts were fine-tuned from. Its files, types and tokenizer are those of the output.
"""

import argparse
import gc
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from nan_merge.catalogue.files import known_names
from nan_merge.catalogue.methods import REFERENCES, STAGES, check_method_spec, methods
from nan_merge.core.command_line import command_line
from nan_merge.core.errors import UserError
from nan_merge.core.parallel import available_processors
from nan_merge.methods.recipe import DEFAULTS, bind, operator_of
from nan_merge.standalone.merge_models import TYPES, OwnModels, run
from nan_merge.standalone.sources import short_names

ROOT = Path(__file__).resolve().parents[1]


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and merge."""
    args = arguments().parse_args(argv)
    record = method(args.method)
    method_spec = {stage: record[stage] for stage in STAGES if stage in record}
    for assignment in args.set:
        method_spec = override(method_spec, assignment, args.method)
    bind(method_spec, args.method)  # names first: its messages name the nearest
    check_method_spec(method_spec, ROOT, "--set")
    for pattern in args.exclude:
        check_pattern(pattern)
    keys = ("base", "method", "output", "exclude", "vocabulary", "missing", "dtype", "device", "threads", "seed", "overwrite")
    own = {key: getattr(args, key) for key in keys} | {"method_spec": method_spec, "about": record}
    run(OwnModels(experts=named(args.expert), export=args.export_mergekit, settings=args.set, **own))


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser("merge_models", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--base", required=True, help="folder, or hub id as owner/name[@revision]")
    add("--expert", required=True, action="append", help="[NAME=]folder or hub id of a fine-tuned model or LoRA adapter; repeat")
    add("--method", required=True, help="an entry of config/methods.yaml")
    add("--set", action="append", default=[], metavar="STAGE.OPERATOR.NAME=VALUE", help="preprocess.trim.density=0.1; repeat")
    add("--output", type=Path, required=True, help="folder of the merged model")
    add("--overwrite", action="store_true", help="replace an existing merged model")
    add("--exclude", nargs="+", action="extend", default=[], metavar="REGEX", help="tensors that stay at the base")
    add("--vocabulary", choices=["truncate", "pad_mean"], default="truncate", help="treatment of rows that differ in number")
    add("--missing", choices=["error", "base"], default="error", help="treatment of a tensor that an expert lacks")
    add("--dtype", choices=TYPES, help="type of all floats of the output (default: as in the base)")
    add("--device", default="cpu", help="cpu, cuda or cuda:N")
    add("--threads", type=positive, default=available_processors(), help="default: one per processor, %(default)s")
    add("--seed", type=int, default=0, help="of random draws")
    add("--export-mergekit", type=Path, metavar="FILE", help="write the coefficients as a mergekit config too")
    return parser


def positive(text: str) -> int:
    """Read a whole number from 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, found {text}")
    return int(text)


def method(name: str) -> dict[str, Any]:
    """Return an entry of config/methods.yaml; one that needs more than models is a UserError."""
    records = methods(ROOT)
    known_names("--method", [name], records)
    record = records[name]
    if name in REFERENCES:
        raise UserError(f"--method {name}: merges nothing ({record['summary']}); choose task_arithmetic, ties or ties_nan")
    if not record.get("static", True):
        raise UserError(f"--method {name}: makes a model for each task, not one ({record['summary']}); choose another")
    if needs := [key for key in ("calibration", "learn") if key in record]:
        raise UserError(
            f"--method {name}: needs data ({needs[0]}: {record[needs[0]]}), which only a suite has; run it through the workflow,"
            " or choose a method with `data: none`"
        )
    if "tune" in record:
        key, host = record["tune"]["hyper_parameter"], record.get("extends")
        while host is not None and "tune" in records[host]:
            host = records[host].get("extends")
        rule = operator_of(record["coefficients"], "coefficients")[0]
        raise UserError(
            f"--method {name}: chooses `{key}` by an evaluation, which only a suite has; take"
            f" --method {host or 'task_arithmetic'} --set coefficients.{rule}.{key}=<number>"
        )
    return record


def override(method_spec: Mapping[str, Any], assignment: str, name: str) -> dict[str, Any]:
    """Return the method spec with `stage.operator.hyper_parameter=value` or `stage=operator` applied.

    An operator other than the stage's replaces it.
    """
    path, equals, text = assignment.partition("=")
    parts = path.split(".")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        parts = []
    if not equals or len(parts) not in (1, 3):
        raise UserError(f"--set {assignment}: expected stage.operator.hyper_parameter=value, such as preprocess.trim.density=0.1")
    if len(parts) == 1:
        return {**method_spec, path: value}
    if isinstance(value, str) and re.fullmatch(r"[+-]?[\d.]+[eE][+-]?\d+", value):  # YAML 1.1 reads 1e-3 as a string
        value = float(value)
    stage, operator, key = parts
    current, values = operator_of(method_spec.get(stage, DEFAULTS[stage]), stage, name) if stage in STAGES else ("", {})
    return {**method_spec, stage: {operator: {**(values if operator == current else {}), key: value}}}


def check_pattern(pattern: str) -> None:
    """Raise a UserError for an invalid regular expression."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise UserError(f"--exclude {pattern}: no regular expression: {error}") from None


def named(experts: Iterable[str]) -> dict[str, str]:
    """Read `NAME=model` or `model` of every expert: {name: folder or hub id}; names are derived where none is stated."""
    models: dict[str, str] = {}
    rest = []
    for text in experts:
        match = None if Path(text).expanduser().exists() else re.fullmatch(r"([A-Za-z0-9][\w.-]*)=(.+)", text)
        if match is None:
            rest.append(text)
        elif match[1] in ("base", *models):
            raise UserError(f"--expert {text}: the name '{match[1]}' is taken; choose another")
        else:
            models[match[1]] = match[2]
    return {**models, **dict(zip(short_names(rest, models), rest, strict=True))}


if __name__ == "__main__":
    gc.freeze()  # a merge makes no cycles, and collection over the objects of numba takes a tenth of its time
    gc.disable()
    command_line(main)
    sys.stdout.flush()
    os._exit(0)  # all is on disk, and the tear-down of numba takes a tenth of a second
