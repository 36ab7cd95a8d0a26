"""Read the models of a mergekit file, listed as `models` or as `slices` that cover whole models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nan_merge.core.errors import UserError
from nan_merge.standalone.mergekit_parameters import PARAMETERS, Settings, Slice, known, mapping


def read_settings(config: Mapping[str, Any], where: str, merged: Mapping[str, str]) -> Settings:
    """Read models and parameters, of `models` or of `slices`."""
    if ("models" in config) == ("slices" in config):
        raise UserError(f"{where}: expected either `models` or `slices`")
    parts = [_models(config, "models", where, merged)] if "models" in config else _slices(config, where, merged)
    base = config.get("base_model")
    base = None if base is None else reference(base, f"{where}: base_model", merged)
    shared = _parameters(config, where)
    return Settings(where, base, shared, parts)


def reference(entry: Any, where: str, merged: Mapping[str, str]) -> str:
    """Read a model: `model`, `model@revision`, `model+adapter`, or mergekit's mapping of `model`, `lora`, each with `path`."""
    if isinstance(entry, Mapping):
        known(where, entry, ("model", "lora", "path", "revision", "override_architecture"))
        if entry.get("override_architecture"):
            raise UserError(f"{where}: `override_architecture` is not supported; the architecture is that of config.json")
        adapter = entry.get("lora")
        place, revision = entry.get("path", entry.get("model")), entry.get("revision")
        if not isinstance(revision, str | None):
            raise UserError(
                f"{where}: revision: expected a branch, a tag or a commit, in quotes if it is a number; found {revision!r}"
            )
        found = reference(place, where, merged) + (f"@{revision}" if revision else "")
        return found + (f"+{reference(adapter, where, merged)}" if adapter else "")
    if not isinstance(entry, str) or not entry:
        raise UserError(f"{where}: expected `model: <folder or hub id>`, found {entry!r}")
    model, plus, adapter = entry.partition("+")
    return merged[model] + plus + adapter if model in merged else entry


def _parameters(entry: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    found = mapping(entry.get("parameters"), f"{where}: parameters")
    known(f"{where}: parameters", found, PARAMETERS)
    return found


def _models(config: Mapping[str, Any], key: str, where: str, merged: Mapping[str, str], *more: str) -> Slice:
    """Read the list of models of a file, or of one of its slices, with their parameters."""
    if not isinstance(config.get(key), list) or not config[key]:
        raise UserError(f"{where}: {key}: expected a list of `model: <folder or hub id>`")
    models: dict[str, Mapping[str, Any]] = {}
    for number, entry in enumerate(config[key]):
        place = f"{where}: {key}[{number}]"
        if not isinstance(entry, Mapping) or "model" not in entry:
            raise UserError(f"{place}: expected `model: <folder or hub id>`, found {entry!r}")
        known(place, entry, ("model", "parameters", *more))
        model = reference(entry.get("model"), place, merged)
        if model in models:
            raise UserError(f"{place}: '{model}' is listed twice; leave one out")
        models[model] = _parameters(entry, f"{where}: {key}: {model}")
    return Slice(f"{where}: {key}", None, models)


def _slices(config: Mapping[str, Any], where: str, merged: Mapping[str, str]) -> list[Slice]:
    """Read slices that together are whole models: the same models in each, with the layers in their order."""
    if not isinstance(config["slices"], list) or not config["slices"]:
        raise UserError(f"{where}: slices: expected a list of `sources: [{{model: ..., layer_range: [0, 32]}}, ...]`")
    parts: list[Slice] = []
    for number, entry in enumerate(config["slices"]):
        place, end = f"{where}: slices[{number}]", parts[-1].layers[1] if parts and parts[-1].layers else 0
        if not isinstance(entry, Mapping):
            raise UserError(f"{place}: expected `sources: [...]`, found {entry!r}")
        known(place, entry, ("sources", "parameters"))
        part = _models(entry, "sources", place, merged, "layer_range")
        ranges = [each.get("layer_range") for each in entry["sources"]]
        layers = ranges[0]
        if not (isinstance(layers, list) and len(layers) == 2 and all(type(n) is int for n in layers) and layers[0] < layers[1]):
            raise UserError(f"{place}: layer_range: expected the first layer and the one behind the last, found {layers!r}")
        if any(each != layers for each in ranges) or layers[0] != end or {*part.models} != {*(parts or [part])[0].models}:
            raise UserError(
                f"{place}: expected the layers of every model from {end} on, and the same models in every slice; found"
                f" {', '.join(map(str, ranges))}. A file that stacks, leaves out or exchanges layers makes another network, which"
                " is not supported"
            )
        parts.append(Slice(place, (layers[0], layers[1]), part.models, _parameters(entry, place)))
    return parts
