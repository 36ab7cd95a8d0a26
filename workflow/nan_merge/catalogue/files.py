"""Read and validate the files of config/. Errors name file, key, expected and found values, and the nearest known name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from nan_merge.core.errors import UserError

RENAMED = {"evidence": "calibration", "words": "operators"}  # keys and values of earlier versions: what they are called now
RENAMED_FILES = {"evidence.yaml": "calibration.yaml"}  # of config/


def check_renamed_files(config: Path) -> None:
    """Raise a UserError if a file of an earlier version is left in the config folder: it would not be read."""
    for old, new in RENAMED_FILES.items():
        if (config / old).exists():
            raise UserError(
                f"config/{old}: this file was renamed to config/{new}; move your entries there and delete config/{old}"
            )


def read_yaml(path: Path) -> Any:
    """Read one YAML file; an unreadable one is a UserError that names the line."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint: the new name of a renamed key or value, the nearest known name, or all of them."""
    known = list(known)
    if RENAMED.get(name) in known:
        return f"it was renamed to '{RENAMED[name]}'"
    close = difflib.get_close_matches(name, known, 1)
    return f"did you mean '{close[0]}'?" if close else f"known are: {', '.join(sorted(known))}"


def check_schema(value: Any, schema_file: Path, where: str, definitions: Mapping[str, Any] | None = None) -> None:
    """Validate against a JSON schema; the first fault is a UserError with file, key, expected and found."""
    schema = read_yaml(schema_file)
    validator = jsonschema.Draft202012Validator({**schema, "$defs": {**schema.get("$defs", {}), **(definitions or {})}})
    errors = sorted(validator.iter_errors(value), key=_order)
    if errors:
        raise UserError(f"{where}: {_explain(_deepest(errors[0]))}")


def _order(error: jsonschema.ValidationError) -> tuple[list[str], bool]:
    """Sort by place; at one place an unknown key comes first, since it may be the misspelt form of a missing one."""
    return [str(part) for part in error.absolute_path], error.validator != "additionalProperties"


def _deepest(error: jsonschema.ValidationError) -> jsonschema.ValidationError:
    """Of an `anyOf`, take the branch that the value nearly fits: objects are explained as objects."""
    while error.context:
        kind = "object" if isinstance(error.instance, dict) else "string"
        branches = [e for e in error.context if not (e.validator == "type" and e.validator_value != kind)]
        branches = [e for e in branches if e.validator != "enum"] or branches or list(error.context)
        error = max(branches, key=lambda e: len(e.absolute_path))
    return error


def _explain(error: jsonschema.ValidationError) -> str:
    key = ".".join(str(part) for part in error.absolute_path) or "the file"
    schema = error.schema
    if error.validator == "additionalProperties" and "properties" in schema:
        unknown = sorted(set(error.instance) - set(schema["properties"]))[0]
        return f"{key}: unknown key '{unknown}'; {nearest(unknown, schema['properties'])}"
    if error.validator == "enum":
        return f"{key}: unknown value {error.instance!r}; {nearest(str(error.instance), map(str, error.validator_value))}"
    if error.validator == "not":
        return f"{key}: the keys {error.validator_value.get('required')} exclude each other; keep one"
    expected = f" (expected: {schema['description']})" if "description" in schema else ""
    return f"{key}: {error.message}{expected}"


def known_names(where: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raise a UserError for the first name that is not known, with the nearest one."""
    for name in names:
        if name not in known:
            raise UserError(f"{where}: unknown '{name}'; {nearest(name, known)}")
