"""JSON schema of every stage, from the signatures of its operators: a new operator needs no line elsewhere."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt

from nan_merge.methods.coefficients import SCALE
from nan_merge.methods.recipe import STAGES, Operator, all_hyper_parameters
from nan_merge.methods.varying import Varies

TYPES = {float: "number", int: "integer", str: "string", bool: "boolean", type(None): "null"}
BOUNDS = {Ge: ("minimum", "ge"), Gt: ("exclusiveMinimum", "gt"), Le: ("maximum", "le"), Lt: ("exclusiveMaximum", "lt")}


def stages() -> dict[str, Any]:
    """Return the JSON schema of every stage by name."""
    return {stage: _stage(operators) for stage, operators in STAGES.items()}


def _stage(operators: Mapping[str, Operator]) -> dict[str, Any]:
    entries = {name: _operator(operator, all_hyper_parameters(operator)) for name, operator in operators.items()}
    bare = [name for name, entry in entries.items() if "required" not in entry]
    whole = {"type": "object", "minProperties": 1, "maxProperties": 1, "additionalProperties": False, "properties": entries}
    return {"anyOf": [{"enum": bare}, whole]}


def _operator(operator: Operator, takes: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
    properties = {name: {**of_type(annotation), **_default(default)} for name, (annotation, default) in takes.items()}
    entry = {
        "description": summary(operator),
        "type": ["object", "null"],
        "additionalProperties": False,
        "properties": properties,
    }
    needed = [name for name, (_, default) in takes.items() if default is inspect.Parameter.empty]
    exclusive = [name for name in SCALE if name in takes]
    return {
        **entry,
        **({"required": needed} if needed else {}),
        **({"not": {"type": "object", "required": exclusive}} if exclusive else {}),
    }


def _default(default: Any) -> dict[str, Any]:
    return {} if default is inspect.Parameter.empty else {"default": default}


def summary(operator: Operator) -> str:
    """Return the first paragraph of an operator's docstring."""
    return " ".join((inspect.getdoc(operator) or "").split("\n\n")[0].split())


def of_type(annotation: Any) -> dict[str, Any]:
    """Return the JSON schema of an annotation: a type, Literal, Mapping, a union; with bounds, a text, `Regex`, `Varies`."""
    if hasattr(annotation, "__metadata__"):
        schema = of_type(annotation.__origin__)
        for extra in sorted(annotation.__metadata__, key=lambda each: isinstance(each, Varies)):
            if isinstance(extra, str):
                schema["description"] = extra
            elif extra is re.compile:
                schema["format"] = "regex"
            elif isinstance(extra, Varies):
                schema = extra.schema(schema)
            else:
                key, attribute = BOUNDS[type(extra)]
                schema[key] = getattr(extra, attribute)
        return schema
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return {"enum": list(inner)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [of_type(each) for each in inner]}
    if origin is Mapping:
        return {"type": "object", "minProperties": 1, "additionalProperties": of_type(inner[1])}
    return {"type": TYPES[annotation]}
