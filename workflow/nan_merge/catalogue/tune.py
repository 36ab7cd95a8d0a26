"""The key `tune` of a method: its JSON schema, the check of a space against the operators, and multiples of a scale."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nan_merge.catalogue.files import check_schema
from nan_merge.core.errors import UserError
from nan_merge.methods.coefficients import COEFFICIENTS, is_finished, scale_of
from nan_merge.methods.recipe import STAGES, inconsistent, operator_in
from nan_merge.methods.search_space import ROUND, SEARCHES, Search, names, put, search_of
from nan_merge.methods.varying import varies

_RANGE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["low", "high"],
    "properties": {
        "low": {"type": "number", "description": "the least value; whole numbers where the hyper-parameter is one"},
        "high": {"type": "number", "description": "the largest value"},
        "log": {"type": "boolean", "description": "whether values are drawn evenly in their logarithm"},
        "start": {
            "type": "number",
            "description": "of tpe and cma_es: value of the first trial; the method's own if not stated",
        },
        "each": {"enum": ["expert"], "description": "one number for each expert, for a hyper-parameter that has one an expert"},
    },
}
_LIST = {
    "type": "array",
    "minItems": 1,
    "uniqueItems": True,
    "items": {"anyOf": [{"type": "number"}, {"type": "string"}, {"type": "boolean"}]},
}
SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "hyper_parameter": {
            "enum": ["value", "mean", "total", "exponent"],
            "description": "one hyper-parameter of the coefficient rule, with `grid` or `as`",
        },
        "grid": {
            "type": "array",
            "minItems": 1,
            "uniqueItems": True,
            "items": {"type": "number"},
            "description": "the candidates",
        },
        "as": {"type": "string", "description": "take the value that was chosen for this other method"},
        "multiples": {
            "type": "array",
            "minItems": 1,
            "uniqueItems": True,
            "items": {"type": "number", "exclusiveMinimum": 0},
            "description": "of a variant without coefficients: the candidates, as multiples of the scale of the method",
        },
        "search": {"enum": [*SEARCHES], "description": "how points of `space` are chosen"},
        "budget": {"type": "integer", "minimum": 1, "description": "number of trials of sobol, tpe and cma_es"},
        "batch": {
            "type": "integer",
            "minimum": 1,
            "description": f"trials of a round of tpe and cma_es, which do not see each other's scores; {ROUND} if not stated",
        },
        "prune": {
            "type": "boolean",
            "description": "of tpe, cma_es and sobol (which then has rounds, too): whether a trial is stopped after a task if its"
            " average over the tasks so far is below the median of the complete trials of earlier rounds, of which there must be"
            " 5; groups of tasks are scored one behind another; false if not stated",
        },
        "seed": {
            "type": "integer",
            "minimum": 0,
            "maximum": 2**32 - 1,
            "description": "of sobol, tpe and cma_es; 0 if not stated",
        },
        "space": {
            "type": "object",
            "minProperties": 1,
            "description": "a list of values or a range by hyper-parameter, `key` or `stage.key`, of any stage",
            "additionalProperties": {"anyOf": [_LIST, _RANGE]},
        },
    },
    "oneOf": [
        {"required": ["hyper_parameter", "grid"]},
        {"required": ["hyper_parameter", "as"]},
        {"required": ["multiples"]},
        {"required": ["search", "space"]},
    ],
}


def checked_search(record: Mapping[str, Any], where: str, schema: Path, definitions: Mapping[str, Any]) -> Search:
    """Return the search of a method; UserError, beginning with `where`, for a space that its operators do not take.

    Bounds and listed values are checked against `schema`, that of methods, with `definitions`.
    """
    search = search_of(record, where)
    spec = {stage: record[stage] for stage in STAGES if stage in record}
    for dimension in search.space if "space" in record["tune"] else ():
        for value in dimension.choices or (dimension.low, dimension.high):
            drawn = int(value) if dimension.integer and not dimension.choices else value
            point = {dimension.path: {"expert": drawn} if dimension.each else drawn}
            method = {"label": "", "summary": "", **put(spec, point)}
            check_schema({"trial": method}, schema, f"{where}: tune: space", definitions)
            if reason := inconsistent(method):
                raise UserError(f"{where}: tune: space: {dimension.path}: {value}: {reason}")
    return search


def lacks_scale(record: Mapping[str, Any]) -> str:
    """Return why the coefficients of a method have no scale that could be chosen; empty if they have one."""
    if "tune" in record:
        return f"it chooses {' and '.join(f'`{each}`' for each in names(record['tune']))} on validation already"
    rule, values = operator_in(record, "coefficients")
    if is_finished(COEFFICIENTS[rule]) and "value" not in values:
        return f"`{rule}` states every coefficient, and they have no common scale"
    named = {stage: operator_in(record, stage)[0] for stage in STAGES}
    if free := [name for stage, name in named.items() if hasattr(STAGES[stage][name], "scale_free")]:
        return f"`{free[0]}` does not see a common factor of the coefficients, so there is no scale to choose"
    ((key, scale),) = scale_of(rule, values).items()
    if varies(scale):
        return f"its `{'value' if 'value' in values else key}` varies by layer or tensor, and multiples are of one number"
    return "" if scale else "its coefficients are 0, and so are all multiples"


def at_multiples(record: Mapping[str, Any], multiples: Iterable[float], variant: str) -> dict[str, Any]:
    """Return what changes of a method whose scale is chosen from multiples of its own: its value, its mean or its sum."""
    rule, values = operator_in(record, "coefficients")
    ((key, scale),) = scale_of(rule, values).items()
    key = "value" if "value" in values else key
    grid = [float(f"{scale * multiple:.6g}") for multiple in multiples]
    host = {"host": f"{record['host']}+{variant}"} if "host" in record else {}
    return {**host, "tune": {"hyper_parameter": key, "grid": grid}, "coefficients": {rule: {**values, key: scale}}}
