"""Expand shorthand entries of the config: `each` of assets, `class_names` of tasks, `extends` of suites."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nan_merge.catalogue.files import check_schema, known_names, read_yaml
from nan_merge.core.errors import UserError
from nan_merge.data.metrics import of_benchmark

HOLE = "{}"
OF_MAKING = ("alignment", "premise", "learn")  # keys of a suite that makes its models; one that scores those of another has none
OF_TASKS = ("tasks", "groups", "metrics")
OF_ONE_SUITE = ("label", "notes", "published", "data", "corrupt", "joint")
OF_SCORING = (*OF_TASKS, *OF_ONE_SUITE, "harness", "vlm", "merges")  # what a suite with `merges` may say of itself


def assets(config: Path, schemas: Path) -> dict[str, dict[str, Any]]:
    """Return the assets of assets.yaml by id; an entry with `each` stands for one asset a key."""
    records = read_yaml(config / "assets.yaml")
    check_schema(records, schemas / "assets.schema.yaml", "config/assets.yaml")
    specs: dict[str, dict[str, Any]] = {}
    for name, record in records.items():
        for asset, entry in _each(name, record):
            if asset in specs:
                raise UserError(f"config/assets.yaml: {name}: there are two assets '{asset}'; rename one")
            specs[asset] = entry
    return specs


def _each(name: str, record: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    if ("each" in record) != (HOLE in name):
        raise UserError(f"config/assets.yaml: {name}: `each` and {HOLE} in the id go together; write both or neither")
    if "each" not in record:
        yield name, dict(record)
    for key, value in record.get("each", {}).items():
        own = value if isinstance(value, dict) else {"name": value}
        entry = {k: _filled(v, own["name"]) for k, v in record.items() if k != "each"}
        yield name.replace(HOLE, key), {**entry, **{k: v for k, v in own.items() if k != "name"}}


def _filled(value: Any, name: str) -> Any:
    if isinstance(value, list):
        return [_filled(item, name) for item in value]
    return value.replace(HOLE, name) if isinstance(value, str) else value


def with_class_names(task: str, record: Mapping[str, Any], config: Path, schemas: Path) -> dict[str, Any]:
    """Return a task with the classes and the prompt templates that `class_names` names, if it does."""
    if "class_names" not in record:
        return dict(record)
    known = [file.stem for file in (config / "class_names").glob("*.yaml")]
    known_names(f"config/tasks.yaml: {task}: class_names", [record["class_names"]], known)
    names = read_yaml(config / "class_names" / f"{record['class_names']}.yaml")
    check_schema(names, schemas / "class_names.schema.yaml", f"config/class_names/{record['class_names']}.yaml")
    rest = {key: value for key, value in record.items() if key != "class_names"}
    return {**rest, "classes": names["classes"], "prompt": names["prompt"]}


def unlocked(assets: Iterable[str], lock: Mapping[str, Any]) -> list[str]:
    """Return the assets that are missing from, or unverified in, a lock."""
    return [asset for asset in sorted(assets) if "unverified" in lock.get(asset, {"unverified": ""})]


def suite(name: str, config: Path, schemas: Path) -> dict[str, Any]:
    """Return a suite by id; keys that it lacks are those of the suite that it `extends`, or whose models it scores (`merges`).

    A key without a value takes away what the extended suite has.
    """
    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        raise UserError(
            f"config/suites/{name}.yaml: '{name}' is no id: lower-case letters, digits and _, a letter first; rename it"
        )
    record = _extended(name, config / "suites", ())
    check_schema(record, schemas / "suite.schema.yaml", f"config/suites/{name}.yaml")
    if "merges" in record:
        _check_models(name, record, _extended(record["merges"], config / "suites", ()))
    return record


def _check_models(name: str, record: Mapping[str, Any], owner: Mapping[str, Any]) -> None:
    """Raise UserError for a key by which the models of a suite would not be those that it scores."""
    for key in sorted({*record, *owner}.difference(OF_SCORING)):
        if record.get(key) != (None if key in OF_MAKING else owner.get(key)):
            raise UserError(
                f"config/suites/{name}.yaml: {key}: the suite scores the merges of '{record['merges']}' (`merges:`), whose file"
                f" says how models are made; remove the key. Its own keys are {', '.join(sorted(OF_SCORING))}"
            )


def scored_models(name: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the suite that an entry of `models` with `tasks` stands for: language models on benchmarks."""
    keys = ("base", "experts", "tasks", "examples", "harness")
    given = {key: record[key] for key in keys if key in record}
    together = {"groups": {"benchmarks": record["tasks"]}}  # a model is loaded once
    return {"label": name, "family": "causal_lm", "merge": record.get("merge", {}), **together, **given}


def _extended(name: str, folder: Path, trail: tuple[str, ...]) -> dict[str, Any]:
    where = f"config/suites/{name}.yaml"
    if name in trail:
        raise UserError(f"{where}: {' -> '.join([*trail, name])}: `extends` and `merges` are circular")
    record = read_yaml(folder / f"{name}.yaml")
    keys = [key for key in ("extends", "merges") if isinstance(record, dict) and key in record]
    if not keys:
        return record
    if len(keys) > 1:
        raise UserError(f"{where}: `extends` and `merges` exclude each other, since both give the keys that it lacks; keep one")
    (key,) = keys
    known_names(f"{where}: {key}", [record[key]], [file.stem for file in folder.glob("*.yaml")])
    above = _extended(record[key], folder, (*trail, name))
    if key == "extends":
        return {k: v for k, v in {**above, **record}.items() if k != "extends" and v is not None}
    if "merges" in above:
        found = f"'{record[key]}' makes none, it scores those of '{above['merges']}'"
        raise UserError(f"{where}: merges: expected a suite that makes merges, but {found}; name that one")
    left_out = {*OF_ONE_SUITE, *OF_MAKING, *(OF_TASKS if "tasks" in record else ())}
    return {**{k: v for k, v in above.items() if k not in left_out}, **record}


def metric(suite: Mapping[str, Any], tasks: Mapping[str, Any], task: str) -> str:
    """Return the metric of a task in the tables of a suite: what the suite names, or that of a benchmark."""
    return str(suite.get("metrics", {}).get(task, of_benchmark(tasks[task].get("harness", {}))))
