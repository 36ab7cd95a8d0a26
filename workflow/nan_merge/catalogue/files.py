"""Read and validate the files of config/. Errors name file, key, expected and found values, and the nearest known name."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jsonschema

from nan_merge.core.errors import UserError
from nan_merge.core.names import first_of, nearest
from nan_merge.core.text import read_yaml as read_yaml

RENAMED_FILES = {"evidence.yaml": "calibration.yaml"}  # of config/
KINDS = {
    "object": "a mapping (`key: value`)",
    "array": "a list",
    "string": "a text",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "null": "nothing",
}
Place = tuple[Any, ...]  # the keys from the top of a file to a value
VALIDATOR = jsonschema.validators.extend(  # NaN and infinity, which YAML has, are no numbers
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine(
        "number", lambda _, value: isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    ),
)
FORMATS = jsonschema.FormatChecker(["regex"])


def check_renamed_files(config: Path) -> None:
    """Raise a UserError if a file of an earlier version is left in the config folder: it would not be read."""
    for old, new in RENAMED_FILES.items():
        if (config / old).exists():
            raise UserError(
                f"config/{old}: this file was renamed to config/{new}; move your entries there and delete config/{old}"
            )


def check_schema(
    value: Any, schema_file: Path, where: str | Callable[[Place], str], definitions: Mapping[str, Any] | None = None
) -> None:
    """Validate against a JSON schema; the first fault is a UserError with file, key, expected and found.

    `where` is the name of the file, or returns it for the place of a fault.
    """
    schema = _schema(schema_file)
    whole = {**schema, "$defs": {**schema.get("$defs", {}), **(definitions or {})}}
    validator = VALIDATOR(whole, format_checker=FORMATS)
    errors = sorted(validator.iter_errors(value), key=_order)
    if errors:
        error = _deepest(errors[0])
        file = where if isinstance(where, str) else where((*error.absolute_path, *_unknown(error)[:1]))
        raise UserError(f"{file}: {'.'.join(map(str, error.absolute_path)) or 'the file'}: {_explain(error)}")


@functools.cache  # read for every suite
def _schema(file: Path) -> Mapping[str, Any]:
    found: Mapping[str, Any] = read_yaml(file)
    return found


def _order(error: jsonschema.ValidationError) -> tuple[list[str], bool]:
    """Sort by place; at one place an unknown key comes first, since it may be the misspelt form of a missing one."""
    return [str(part) for part in error.absolute_path], error.validator != "additionalProperties"


def _deepest(error: jsonschema.ValidationError) -> jsonschema.ValidationError:
    """Of an `anyOf`, take the branch for values of this type; if there is none, the `anyOf` itself."""
    while error.validator == "anyOf" and (fitting := [fault for fault in error.context if _of_its_type(fault, error)]):
        error = max(fitting, key=lambda fault: len(fault.absolute_path))
    return error


def _of_its_type(fault: jsonschema.ValidationError, whole: jsonschema.ValidationError) -> bool:
    """Return whether the branch of a fault takes values of the type that was found."""
    if len(fault.absolute_path) > len(whole.absolute_path):
        return True
    if fault.validator == "enum":
        return any(isinstance(fault.instance, type(known)) for known in fault.validator_value)
    return fault.validator != "type"


def _unknown(error: jsonschema.ValidationError) -> list[Any]:
    """Return the keys that the schema does not have."""
    if error.validator != "additionalProperties":
        return []
    return sorted(set(error.instance) - set(error.schema.get("properties", {})), key=str)


def _explain(error: jsonschema.ValidationError) -> str:
    """Say what was expected and found, and what to write."""
    schema, found, rule = error.schema, error.instance, error.validator_value
    match error.validator:
        case "additionalProperties":
            unknown = str(_unknown(error)[0])
            return f"unknown key '{unknown}'; {nearest(unknown, schema.get('properties', {}))}"
        case "enum" if isinstance(found, str):
            return f"unknown value {found!r}; {nearest(found, map(str, rule))}"
        case "format":
            return f"expected a regular expression{_meaning(schema)}, found {found!r}: {error.cause}"
        case "required":
            missing = next(key for key in rule if key not in found)
            meaning = schema.get("properties", {}).get(missing, {}).get("description")
            empty = "" if found or error.absolute_path else "it is empty: "
            return f"{empty}the key '{missing}' is missing" + (f" ({meaning})" if meaning else "")
        case "not" if "required" in rule:
            return f"the keys {rule['required']} exclude each other; keep one"
        case "oneOf":
            choices = [branch["required"] for branch in rule]
            given = dict.fromkeys(key for keys in choices for key in keys if key in found)
            either = " or else ".join(" and ".join(f"`{key}`" for key in keys) for keys in choices)
            return f"expected {either}, found {' and '.join(f'`{key}`' for key in given) or 'none of them'}"
        case "uniqueItems":
            twice = next(item for item in found if found.count(item) > 1)
            places = [str(number) for number, item in enumerate(found, 1) if item == twice]
            return f"{twice!r} stands {len(places)} times, as the entries {' and '.join(places)}; keep one"
        case "minItems" | "minProperties" | "maxProperties":
            bound = f"{'at most' if error.validator.startswith('max') else 'at least'} {rule}"
            return f"expected {bound} of them{_meaning(schema)}, found {', '.join(map(str, found)) or 'none'}"
    return f"expected {_expected(schema)}, found {_found(found)}{_correction(schema, found)}"


def _expected(schema: Mapping[str, Any]) -> str:
    """Return the values that a schema takes, as words."""
    if "anyOf" in schema:
        return " or ".join(_expected(branch) for branch in schema["anyOf"]) + _meaning(schema)
    if "enum" in schema:
        known = [str(value) for value in schema["enum"]]
        return " or ".join([*known[:3], *(["..."] if len(known) > 3 else [])]) + _meaning(schema)
    kinds = [schema["type"]] if isinstance(schema.get("type"), str) else schema.get("type", [])
    bounds = {
        "minimum": "of at least {}",
        "exclusiveMinimum": "above {}",
        "maximum": "of at most {}",
        "exclusiveMaximum": "below {}",
    }
    limits = " and ".join(text.format(schema[key]) for key, text in bounds.items() if key in schema)
    pattern = f"of the form {schema['pattern']}" if "pattern" in schema and "description" not in schema else ""
    return " ".join(filter(None, [" or ".join(KINDS[kind] for kind in kinds), limits, pattern])) + _meaning(schema)


def _meaning(schema: Mapping[str, Any]) -> str:
    return f" ({schema['description']})" if "description" in schema else ""


def _found(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    return f"the text {value!r}" if isinstance(value, str) else str(value)


def _correction(schema: Mapping[str, Any], found: Any) -> str:
    """Return what to write in place of a value of another type; empty if that cannot be told."""
    kind = schema.get("type", next((branch.get("type") for branch in schema.get("anyOf", [])), None))
    if kind == "array" and isinstance(found, str | int | float):
        return f"; write [{found}]"
    if kind == "object" and isinstance(found, str | list):
        return "; write `key: value`, with a space after the colon and no `-` before the key"
    if kind == "string" and isinstance(found, int | float):
        return "; write it in quotes"
    if kind in ("number", "integer") and isinstance(found, str):
        try:
            number = float(found.rstrip("% ")) / (100 if found.endswith("%") else 1)
        except ValueError:
            return ""
        if not math.isfinite(number):
            return ""
        text = f"{number:.12g}"
        return f"; write {text.replace('e', '.0e') if 'e' in text and '.' not in text else text}, without quotes"
    return ""


def known_names(where: str, names: Iterable[str], known: Iterable[str], see: str = "") -> None:
    """Raise a UserError for the first name that is not known, with the nearest one; `see` says where all can be read."""
    for name in names:
        if not isinstance(name, str):
            choices = f"{first_of([*map(repr, known)])}{f' ({see})' if see else ''}"
            raise UserError(f"{where}: expected one of {choices}; found {name!r}")
        if name not in known:
            raise UserError(f"{where}: unknown '{name}'; {nearest(name, known, see)}")
