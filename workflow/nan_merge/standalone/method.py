"""Choose the method of a merge without a suite: an entry of the catalogue, with single settings changed."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import Any

import yaml

from nan_merge.catalogue.labels import described
from nan_merge.catalogue.methods import REFERENCES, STAGES, Catalogue, check_method_spec
from nan_merge.catalogue.places import catalogue_root
from nan_merge.core.errors import UserError
from nan_merge.core.names import nearest
from nan_merge.core.text import parse_yaml
from nan_merge.methods.coefficients import SCALE
from nan_merge.methods.recipe import bind, operator_in, requirements
from nan_merge.methods.search_space import names
from nan_merge.methods.units import ONE_BASE

LONGEST = 80  # characters of the changes in a label
MEASURED = ("thresholds", "processed")  # requirements that models alone meet


def choose(name: str, changes: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the record of a method, and its operators by stage with `changes`, as `override` reads them.

    Raises UserError for a method that needs more than models, and for a change that does not fit it.
    """
    catalogue = Catalogue(catalogue_root())
    entry = record(name, catalogue)
    method_spec = {stage: entry[stage] for stage in STAGES if stage in entry}
    for path, value in changes.items():
        method_spec = override(method_spec, path, value, name)
    requires = bind(method_spec, name).requirements  # names first: its messages name the nearest
    check_method_spec(method_spec, catalogue_root(), "--set")
    if needs := [kind for kind in requires if kind not in MEASURED]:
        raise UserError(
            f"--set: an operator needs {needs[0]} statistics of data, which only a suite has; choose another operator"
        )
    replaced = [stage for stage in STAGES if operator_in(method_spec, stage)[0] != operator_in(entry, stage)[0]]
    host = name.split("+")[0]
    plain = catalogue.members(host, "--method").get(host, entry)
    if put := [stage for stage in replaced if operator_in(plain, stage) != operator_in(entry, stage)]:
        raise UserError(f"--set {put[0]}: replaces what '{name}' puts on {host}; name the method {host} to set its {put[0]}")
    if changes:
        with contextlib.suppress(UserError):  # a label that names a hyper-parameter of a replaced operator stays as it was
            entry = described({**catalogue.templates(name)[name], **method_spec}, name)
        if replaced:  # the label describes other operators
            entry["label"] = name
        entry["label"] += f", changed by {_shown(changes)}"
    return entry, method_spec


def _shown(changes: Mapping[str, Any]) -> str:
    """Return changes for a label: with their values, or in short; the whole of them stands in the recipe of the card."""
    whole = ", ".join(f"{path}={flow(value)}" for path, value in changes.items())
    paths = ", ".join(changes)
    return whole if len(whole) <= LONGEST else paths if len(paths) <= LONGEST else f"{len(changes)} settings"


def record(name: str, catalogue: Catalogue | None = None) -> dict[str, Any]:
    """Return a method of the catalogue; one that needs more than models is a UserError."""
    catalogue = catalogue or Catalogue(catalogue_root())
    members = catalogue.members(name, "--method")
    if name not in members:
        raise UserError(f"--method {name}: stands for {len(members)} methods; choose one, such as {next(iter(members))}")
    found = members[name]
    if name in REFERENCES:
        raise UserError(f"--method {name}: merges nothing ({found['summary']}); choose task_arithmetic, ties or ties+nan_delta")
    if "matching" in requirements(found, name):
        raise UserError(f"--method {name}: {ONE_BASE}; choose task_arithmetic, ties or ties+nan_delta")
    if not found.get("static", True):
        raise UserError(f"--method {name}: makes a model for each task, not one ({found['summary']}); choose another")
    if needs := [key for key in ("calibration", "learn") if key in found]:
        raise UserError(
            f"--method {name}: needs data ({needs[0]}: {found[needs[0]]}), which only a suite has; run it through the workflow,"
            " or choose one that `nan-merge methods` lists without [needs ...]"
        )
    if "tune" in found:
        keys, fixed = names(found["tune"]), catalogue.untuned(name)
        rule = operator_in(found, "coefficients")[0]
        ways = " --set " + f"coefficients.{rule}.{keys[0]}=<number>" if "space" not in found["tune"] else ", with --set for these"
        raise UserError(
            f"--method {name}: chooses {' and '.join(f'`{key}`' for key in keys)} by an evaluation, which only a suite has; take"
            f" --method {fixed}{ways}"
        )
    return found


def override(method_spec: Mapping[str, Any], path: str, value: Any, name: str) -> dict[str, Any]:
    """Return the method spec with `value` at the path `stage.operator.hyper_parameter`, or as the operator of a stage.

    An operator other than the stage's replaces it.
    """
    parts = path.split(".")
    if len(parts) not in (1, 3):
        raise _malformed(f"{path}={value}")
    if len(parts) == 1:
        if path not in STAGES:
            whole = "a hyper-parameter has its whole path, such as preprocess.trim.density"
            raise UserError(f"--set {path}: no stage {path!r}; {nearest(path, STAGES)}; {whole}")
        return {**method_spec, path: value}
    stage, operator, key = parts
    current, values = operator_in(method_spec, stage, name) if stage in STAGES else ("", {})
    if key in SCALE:  # one takes the place of the other
        values = {each: old for each, old in values.items() if each not in SCALE}
    return {**method_spec, stage: {operator: {**(values if operator == current else {}), key: value}}}


def assignment(text: str) -> tuple[str, Any]:
    """Read `path=value`, the value in YAML: (path, value)."""
    path, equals, written = text.partition("=")
    try:
        value = parse_yaml(written, "--set")
    except UserError:
        raise _malformed(text) from None
    if not equals:
        raise _malformed(text)
    return path, _with_numbers(value)


def _with_numbers(value: Any) -> Any:
    """Return a value with the numbers that YAML 1.1 reads as texts, such as 1e-3, also within lists and mappings."""
    if isinstance(value, Mapping):
        return {key: _with_numbers(each) for key, each in value.items()}
    if isinstance(value, list):
        return list(map(_with_numbers, value))
    is_number = isinstance(value, str) and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+", value)
    return float(value) if is_number else value


def flow(value: Any) -> str:
    """Write a value as `assignment` reads it: YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _malformed(text: str) -> UserError:
    return UserError(f"--set {text}: expected stage.operator.hyper_parameter=value, such as preprocess.trim.density=0.1")
