"""JSON schema of every stage, from the signatures of its operators: a new operator needs no line elsewhere."""

from __future__ import annotations

import inspect
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt

from nan_merge.methods.coefficients import WITHOUT_NORMS
from nan_merge.methods.recipe import STAGES, TABLE_HYPER_PARAMETERS, Operator, hyper_parameters

TYPES = {float: "number", int: "integer", str: "string", bool: "boolean", type(None): "null"}
BOUNDS = {Ge: ("minimum", "ge"), Gt: ("exclusiveMinimum", "gt"), Le: ("maximum", "le"), Lt: ("exclusiveMaximum", "lt")}


def stages() -> dict[str, Any]:
    """Return the JSON schema of every stage by name."""
    return {stage: _stage(operators, stage == "coefficients") for stage, operators in STAGES.items()}


def _stage(operators: Mapping[str, Operator], of_norms: bool) -> dict[str, Any]:
    extra = {name: TABLE_HYPER_PARAMETERS if of_norms and name not in WITHOUT_NORMS else {} for name in operators}
    entries = {name: _operator(operator, {**extra[name], **hyper_parameters(operator)}) for name, operator in operators.items()}
    bare = [name for name, entry in entries.items() if "required" not in entry]
    whole = {"type": "object", "minProperties": 1, "maxProperties": 1, "additionalProperties": False, "properties": entries}
    return {"anyOf": [{"enum": bare}, whole]}


def _operator(operator: Operator, takes: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
    properties = {name: of_type(annotation) for name, (annotation, _) in takes.items()}
    entry = {
        "description": summary(operator),
        "type": ["object", "null"],
        "additionalProperties": False,
        "properties": properties,
    }
    needed = [name for name, (_, default) in takes.items() if default is inspect.Parameter.empty]
    exclusive = getattr(operator, "exclusive", None)  # hyper-parameters that exclude each other
    return {**entry, **({"required": needed} if needed else {}), **({"not": {"required": exclusive}} if exclusive else {})}


def summary(operator: Operator) -> str:
    """Return the first paragraph of an operator's docstring."""
    return " ".join((inspect.getdoc(operator) or "").split("\n\n")[0].split())


def of_type(annotation: Any) -> dict[str, Any]:
    """Return the JSON schema of an annotation: number types, bool, str, Literal, Sequence, unions, bounds and a text."""
    if hasattr(annotation, "__metadata__"):
        schema = of_type(annotation.__origin__)
        for extra in annotation.__metadata__:
            if isinstance(extra, str):
                schema["description"] = extra
            else:
                key, attribute = BOUNDS[type(extra)]
                schema[key] = getattr(extra, attribute)
        return schema
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return {"enum": list(inner)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [of_type(each) for each in inner]}
    if origin is Sequence:
        return {"type": "array", "minItems": 1, "items": of_type(inner[0])}
    return {"type": TYPES[annotation]}
