"""Expand an entry with `draws` or a `scan` into a sweep: several methods.

A member of a sweep is a method like any other. Its key `sweep` holds the id and the label of the entry and either
`draw`, its number, or `values`, the hyper-parameters that the scan gave it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any, NamedTuple

from nan_merge.core.errors import UserError
from nan_merge.methods.coefficients import SCALE
from nan_merge.methods.recipe import STAGES as OPERATORS
from nan_merge.methods.recipe import hyper_parameters, operator_in, operator_of

DRAWN = ("control", "preprocess")  # stages with random operators


def members(name: str, record: Mapping[str, Any], where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the methods of an entry, `id, record`: itself, or one for every draw or every combination of a scan.

    Raises UserError, beginning with `where`, for a sweep that does not fit the operators of the entry.
    """
    several = [key for key in ("tune", "draws", "scan") if key in record]
    if len(several) > 1 and not ("draws" in several and "as" in record.get("tune", {})):
        raise UserError(f"{where}: the keys {several} exclude each other; keep one")
    plain = {key: value for key, value in record.items() if key not in ("draws", "scan")}
    if "draws" in record:
        yield from _draws(name, plain, record["draws"], where)
    elif "scan" in record:
        yield from _scan(name, plain, record["scan"], where)
    else:
        yield name, plain


def lacks_shuffle(record: Mapping[str, Any], experts: int) -> str:
    """Return why so many experts cannot have the shuffle of a method; empty if they can, and for a method that is no shuffle."""
    shuffles = math.factorial(experts) - 1
    if record.get("sweep", {}).get("draw", 0) <= shuffles or _random_stage(record) != "control":
        return ""
    return f"{experts} experts have no more shuffles than {shuffles}"


def _random_stage(record: Mapping[str, Any], name: str = "method") -> str:
    """Return the stage of a method whose operator has a `seed`, a control before what it controls; empty without one."""
    random = (s for s in DRAWN if "seed" in hyper_parameters(OPERATORS[s][operator_in(record, s, name)[0]]))
    return next(random, "")


def _draws(name: str, record: Mapping[str, Any], count: int, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield `<name>_1`, `<name>_2`, ...: the random operator of the entry, with seed 1, 2, ..."""
    stage = _random_stage(record, name)
    if not stage:
        named = " and ".join(f"`{each}: {operator_in(record, each, name)[0]}`" for each in DRAWN)
        raise UserError(f"{where}: draws: {named} draw nothing; name an operator with a seed, as `permuted` or `drop`")
    operator, given = operator_in(record, stage, name)
    for draw in range(1, count + 1):
        sweep = {"id": name, "label": record["label"], "draw": draw}
        drawn = {stage: {operator: {**given, "seed": draw}}}
        yield f"{name}_{draw}", {**record, "label": f"{record['label']}, draw {draw}", **drawn, "sweep": sweep}


def _scan(name: str, record: Mapping[str, Any], scan: Mapping[str, Any], where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield `<name>-<value>-<value>...` for every combination of the listed hyper-parameters."""
    axes = [axis for stage in scan for axis in _axes(record, stage, scan[stage], where)]
    for values in product(*(axis.values for axis in axes)):
        method_spec = {stage: record[stage] for stage in OPERATORS if stage in record}
        for axis, value in zip(axes, values, strict=True):
            given = operator_of(method_spec.get(axis.stage, axis.operator), axis.stage, name)[1]
            method_spec[axis.stage] = {axis.operator: {**given, axis.key: value}}
        spelt = {axis.key: value for axis, value in zip(axes, values, strict=True)}
        label = ", ".join(f"{key} {_spell(value)}".replace("_", " ") for key, value in spelt.items())
        sweep = {"id": name, "label": record["label"], "values": spelt}
        member = {**record, **method_spec, "label": f"{record['label']}: {label}", "sweep": sweep}
        yield "-".join([name, *map(_spell, values)]), member


class _Axis(NamedTuple):
    """One hyper-parameter of a scan."""

    stage: str
    operator: str
    key: str
    values: list[Any]


def _axes(record: Mapping[str, Any], stage: str, scan: Mapping[str, Any], where: str) -> list[_Axis]:
    ((operator, lists),) = scan.items()
    mine, given = operator_in(record, stage, where)
    if operator != mine:
        raise UserError(f"{where}: scan: {stage}: '{operator}' is not the operator of this method; expected '{mine}'")
    if {*SCALE} <= {*given, *lists}:
        raise UserError(f"{where}: scan: {stage}: the keys {[*SCALE]} exclude each other; keep one")
    if several := [key for key, values in lists.items() if any(isinstance(value, list | Mapping) for value in values)]:
        reason = "values become parts of ids, and those that vary by layer or expert have none; make each a method of its own"
        raise UserError(f"{where}: scan: {stage}: {operator}: {several[0]}: {reason}")
    return [_Axis(stage, operator, key, values) for key, values in lists.items()]


def _spell(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
