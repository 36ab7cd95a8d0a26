"""Read config/methods.yaml: `extends` is resolved, and an entry with `draws` or a `scan` becomes a sweep: several methods.

A member of a sweep is a method like any other. Its key `sweep` holds the id and the label of the entry and either
`draw`, its number, or `values`, the hyper-parameters that the scan gave it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from nan_merge.catalogue.files import check_schema, known_names, read_yaml
from nan_merge.core.errors import UserError
from nan_merge.methods.recipe import DEFAULTS, Operator, hyper_parameters, operator_of
from nan_merge.methods.recipe import STAGES as OPERATORS
from nan_merge.methods.schema import stages

STAGES = tuple(OPERATORS)
REFERENCES = ("pretrained", "individual", "multitask")  # rows without a merge
FILE = "config/methods.yaml"
SCHEMA = "workflow/schemas/methods.schema.yaml"
NOT_INHERITED = ("tune", "draws", "scan")  # one entry, several merges


def methods(root: Path) -> dict[str, dict[str, Any]]:
    """Return the methods of config/methods.yaml below `root` by id, checked, the members of a sweep at its place."""
    records = read_yaml(root / FILE)
    check_schema(records, root / SCHEMA, FILE, _definitions())
    found: dict[str, dict[str, Any]] = {}
    for name, record in extended(records).items():
        for member, expanded in _members(name, record):
            if member in found or (member != name and member in records):
                raise UserError(f"{FILE}: {name}: there are two methods '{member}'; rename one")
            found[member] = expanded
    return found


def sweeps(records: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the members of every sweep by its id."""
    found: dict[str, list[str]] = {}
    for name, record in records.items():
        if "sweep" in record:
            found.setdefault(record["sweep"]["id"], []).append(name)
    return found


def operators(record: Mapping[str, Any]) -> list[Operator]:
    """Return the operators of a method, one a stage."""
    return [OPERATORS[stage][operator_of(record.get(stage, DEFAULTS[stage]), stage)[0]] for stage in STAGES]


def takes_norms_of_calibration(record: Mapping[str, Any]) -> bool:
    """Return whether the coefficients of a method come from the norms of calibration statistics."""
    return operator_of(record.get("coefficients", DEFAULTS["coefficients"]), "coefficients")[1].get("norm_of") == "calibration"


def check_method_spec(method_spec: Mapping[str, Any], root: Path, where: str) -> None:
    """Check the stages of one method against the schema; the first fault is a UserError that begins with `where`."""
    check_schema({"method": {"label": "", "summary": "", **method_spec}}, root / SCHEMA, where, _definitions())


def _definitions() -> dict[str, Any]:
    """Return the JSON schema of every stage, and of a scan: the stages with a list for every hyper-parameter."""
    found = stages()
    scans = {stage: {**schema["anyOf"][1]} for stage, schema in found.items()}
    for scan in scans.values():
        scan["properties"] = {operator: _lists(entry) for operator, entry in scan["properties"].items()}
    return {**found, "scan": {"type": "object", "minProperties": 1, "additionalProperties": False, "properties": scans}}


def _lists(entry: Mapping[str, Any]) -> dict[str, Any]:
    values = {key: {"type": "array", "minItems": 1, "uniqueItems": True, "items": of} for key, of in entry["properties"].items()}
    return {"type": "object", "minProperties": 1, "additionalProperties": False, "properties": values}


def extended(records: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Resolve `extends`: the keys of the named entry are defaults; `tune`, `draws` and `scan` are not inherited."""
    resolved: dict[str, dict[str, Any]] = {}

    def resolve(name: str, trail: tuple[str, ...]) -> dict[str, Any]:
        if name in trail:
            raise UserError(f"{FILE}: {' -> '.join([*trail, name])}: `extends` is circular")
        if name not in resolved:
            record = dict(records[name])
            parent = record.get("extends")
            if parent is not None:
                known_names(f"{FILE}: {name}: extends", [parent], records)
                inherited = {k: v for k, v in resolve(parent, (*trail, name)).items() if k not in NOT_INHERITED}
                record = {**inherited, **record}
            resolved[name] = record
        return resolved[name]

    return {name: resolve(name, ()) for name in records}


def _members(name: str, record: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    several = [key for key in NOT_INHERITED if key in record]
    if len(several) > 1:
        raise UserError(f"{FILE}: {name}: the keys {several} exclude each other; keep one")
    plain = {key: value for key, value in record.items() if key not in ("draws", "scan")}
    if "draws" in record:
        yield from _draws(name, plain, record["draws"])
    elif "scan" in record:
        yield from _scan(name, plain, record["scan"])
    else:
        yield name, plain


def _draws(name: str, record: Mapping[str, Any], count: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield `<name>_1`, `<name>_2`, ...: the control of the entry, with seed 1, 2, ..."""
    operator, given = operator_of(record.get("control", DEFAULTS["control"]), "control", name)
    if "seed" not in hyper_parameters(OPERATORS["control"][operator]):
        raise UserError(f"{FILE}: {name}: draws: `control: {operator}` draws nothing; name a control with a seed, as `permuted`")
    for draw in range(1, count + 1):
        sweep = {"id": name, "label": record["label"], "draw": draw}
        control = {operator: {**given, "seed": draw}}
        yield f"{name}_{draw}", {**record, "label": f"{record['label']}, draw {draw}", "control": control, "sweep": sweep}


def _scan(name: str, record: Mapping[str, Any], scan: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield `<name>-<value>-<value>...` for every combination of the listed hyper-parameters."""
    axes = [axis for stage in scan for axis in _axes(name, record, stage, scan[stage])]
    for values in product(*(axis.values for axis in axes)):
        method_spec = {stage: record[stage] for stage in STAGES if stage in record}
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


def _axes(name: str, record: Mapping[str, Any], stage: str, scan: Mapping[str, Any]) -> list[_Axis]:
    ((operator, lists),) = scan.items()
    mine, given = operator_of(record.get(stage, DEFAULTS[stage]), stage, name)
    if operator != mine:
        raise UserError(f"{FILE}: {name}: scan: {stage}: '{operator}' is not the operator of this method; expected '{mine}'")
    exclusive = getattr(OPERATORS[stage][operator], "exclusive", [])
    if exclusive and {*exclusive} <= {*given, *lists}:
        raise UserError(f"{FILE}: {name}: scan: {stage}: the keys {exclusive} exclude each other; keep one")
    return [_Axis(stage, operator, key, values) for key, values in lists.items()]


def _spell(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
