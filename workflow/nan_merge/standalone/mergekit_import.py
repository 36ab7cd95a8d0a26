"""Translate mergekit's YAML into method specs, for the methods that both projects have.

The meaning of each key is that of mergekit 0.1.5 (`config.py`, `plan.py`, `merge_methods/linear.py`,
`generalized_task_arithmetic.py`, `sparsify.py`). A key without a counterpart is a UserError that names it.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nan_merge.core.errors import UserError
from nan_merge.methods.varying import varies
from nan_merge.standalone.sources import local, short_names

LINEAR, TASK_ARITHMETIC, TIES, DARE_LINEAR, DARE_TIES = "linear", "task_arithmetic", "ties", "dare_linear", "dare_ties"
HOSTS = {  # the closest method of config/methods.yaml
    LINEAR: "weight_averaging",
    TASK_ARITHMETIC: "task_arithmetic",
    TIES: "ties",
    DARE_LINEAR: "dare",
    DARE_TIES: "dare_ties",
}
KEYS = (
    "merge_method", "models", "slices", "base_model", "parameters", "dtype", "out_dtype", "tokenizer_source", "tokenizer",
    "chat_template",
)  # fmt: skip
PARAMETERS = ("weight", "density", "normalize", "lambda", "rescale", "int8_mask")
OF_MODELS = ("weight", "density")  # the others belong to all models at once
WITHOUT_EFFECT = {  # parameters that mergekit too reads for other methods only, and the type of its masks
    LINEAR: ("density", "lambda", "rescale", "int8_mask"),
    TASK_ARITHMETIC: ("density", "rescale", "int8_mask"),
    TIES: ("int8_mask",),
    DARE_LINEAR: ("int8_mask",),
    DARE_TIES: ("int8_mask",),
}
TYPES = ("float16", "bfloat16", "float32", "float64")
OTHER_TOOLS = {  # keys of the files of mergekit's other commands
    "gate_mode": "it is for mergekit-moe, which builds a mixture of experts out of the models and merges none",
    "experts": "it is for mergekit-moe, which builds a mixture of experts out of the models and merges none",
    "genome": "it is for mergekit-evolve, which searches for a config by evaluations",
}
OTHER_METHODS = {"passthrough": "it stacks layers of models and merges none"}
Varying = Any  # a number, a gradient or cases: `nan_merge.methods.varying`


@dataclass(frozen=True)
class MergekitConfig:
    """A mergekit file as a method spec; `notes` list the differences."""

    host: str
    base: str
    experts: dict[str, str]  # name -> folder or hub id
    method_spec: dict[str, Any]
    dtype: str | None
    notes: tuple[str, ...]
    tokenizer: str | None = None  # `base`, `union`, or the name of a model
    chat_template: str | None = None
    layers: int | None = None  # that `slices` take of every model


@dataclass(frozen=True)
class _Slice:
    """A range of layers of the output (None: all), with the parameters of its models and of all of them."""

    where: str
    layers: tuple[int, int] | None
    models: Mapping[str, Mapping[str, Any]]
    shared: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Settings:
    """The parameters of one file: those of a model take precedence over those of its slice, and these over those of all."""

    where: str
    base: str | None
    shared: Mapping[str, Any]
    slices: Sequence[_Slice]

    @property
    def models(self) -> list[str]:
        """The models, in the order of the file."""
        return list(self.slices[0].models)

    def ignored(self, method: str) -> Iterator[str]:
        """Yield a note for every parameter that has no effect, there as here."""
        of_all = [self.shared, *(part.shared for part in self.slices)]
        of_models = [each for part in self.slices for each in part.models.values()]
        for key in PARAMETERS:
            if key in WITHOUT_EFFECT[method] and any(key in each for each in (*of_all, *of_models)):
                yield f"{key}: has no effect for '{method}' and is ignored"
            elif key not in OF_MODELS and any(key in each for each in of_models):
                yield f"{key}: has no effect at a model, in mergekit too, and is ignored there; write it below `parameters` of all"

    def flag(self, key: str, default: bool) -> bool:
        """Return a boolean parameter of the whole merge."""
        values = set()
        for part in self.slices:
            for place, value in [*self._found(key, "", part), ("", default)]:
                values |= {self._boolean(each, place) for each in _values(value)}
                if not _has_filters(value):
                    break
        if len(values) > 1:
            raise UserError(
                f"{self.where}: parameters.{key}: true for some tensors and false for others; supported is one for all"
            )
        return values.pop()

    def number(self, key: str, model: str = "", default: float | None = None) -> Varying:
        """Return a numeric parameter of one model, or of the whole merge: a number, a gradient or cases."""
        cases: list[dict[str, Any]] = []
        for part in self.slices:
            found = [case for place, value in self._found(key, model, part) for case in self._cases(value, place)]
            found += [] if default is None else [{"value": default}]
            if not found:
                raise UserError(f"{part.where}: {model}: has no `{key}`, and `parameters` has none for all; write one")
            end = next((number for number, case in enumerate(found, 1) if "filter" not in case), len(found))
            layers = {"layers": list(part.layers)} if part.layers and len(self.slices) > 1 else {}
            cases += [{**layers, **case} for case in found[:end]]
        first = cases[0]["value"]
        one = len(cases) == 1 or not isinstance(first, list)  # a gradient runs over the layers of its slice
        if one and all("filter" not in case and case["value"] == first for case in cases):
            return first
        return cases

    def _found(self, key: str, model: str = "", part: _Slice | None = None) -> Iterator[tuple[str, Any]]:
        """Yield where a parameter stands, and its value, in the order of precedence."""
        for each in [part] if part else self.slices:
            places = ((f"{each.where}: {model}", each.models.get(model, {})), (each.where, each.shared))
            yield from ((f"{place}: parameters.{key}", settings[key]) for place, settings in places if key in settings)
        if key in self.shared:
            yield f"{self.where}: parameters.{key}", self.shared[key]

    def _cases(self, value: Any, where: str) -> list[dict[str, Any]]:
        """Read a parameter: a number, a gradient, one case or a list of cases."""
        if not _has_cases(value):
            return [{"value": _reading(value, where)}]
        return [self._case(entry, where) for entry in (value if isinstance(value, list) else [value])]

    def _case(self, entry: Any, where: str) -> dict[str, Any]:
        only = _mapping(entry, where).get("filter")
        _known(where, entry, ("filter", "value"))
        if "value" not in entry or not isinstance(only, str | None):
            raise UserError(f"{where}: expected `filter: <part of a tensor's name>` and `value: <number>`, found {dict(entry)}")
        return {**({} if only in (None, "*") else {"filter": only}), "value": _reading(entry["value"], where)}

    def _boolean(self, value: Any, where: str) -> bool:
        if value not in (True, False):  # mergekit reads 0 and 1 too
            raise UserError(f"{where}: expected true or false, found {value!r}")
        return bool(value)


def _has_cases(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and any(isinstance(each, Mapping) for each in value))


def _has_filters(value: Any) -> bool:
    """Return whether a parameter has cases that need not apply to a tensor, so that the next place may count."""
    cases = value if isinstance(value, list) else [value]
    return _has_cases(value) and all(isinstance(each, Mapping) and each.get("filter") not in (None, "*") for each in cases)


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    """Return what should be a mapping, {} for nothing."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: expected `name: value` in each line, found {value!r}")
    return value


def _values(value: Any) -> list[Any]:
    """Return the values of all cases of a parameter."""
    return [each.get("value") if isinstance(each, Mapping) else each for each in (value if isinstance(value, list) else [value])]


def _reading(value: Any, where: str) -> float | list[float]:
    """Read a number, or a gradient."""
    if not isinstance(value, list):
        with contextlib.suppress(TypeError, ValueError):
            if math.isfinite(number := float(value)):
                return number
        raise UserError(f"{where}: expected a number, found {value!r}")
    if not value:
        raise UserError(f"{where}: the list is empty; expected the numbers of a gradient over the layers")
    if nested := [each for each in value if isinstance(each, list)]:
        raise UserError(f"{where}: expected a number, found {nested[0]!r} within a gradient")
    numbers = [float(_reading(each, where)) for each in value]  # type: ignore[arg-type]
    return numbers if len({*numbers}) > 1 else numbers[0]


def _each(value: Varying, change: Callable[[float], float]) -> Varying:
    """Return a varying number with every number in it changed."""
    if isinstance(value, list):
        return [_each(each, change) for each in value]
    return {**value, "value": _each(value["value"], change)} if isinstance(value, Mapping) else change(value)


def _numbers(value: Varying) -> Iterator[float]:
    """Yield the numbers of a varying number."""
    if isinstance(value, list):
        for each in value:
            yield from _numbers(each["value"] if isinstance(each, Mapping) else each)
    else:
        yield value


def translate(config: Any, where: str, merged: Mapping[str, str] | None = None) -> MergekitConfig:
    """Translate the content of a mergekit file; `where` names the file in messages.

    `merged` are the folders of earlier documents of the same file, by their names, which stand for models here.
    Raises UserError for a key, a method or a value without a counterpart.
    """
    if isinstance(config, Mapping) and (key := next((key for key in OTHER_TOOLS if key in config), None)):
        raise UserError(f"{where}: `{key}`: {OTHER_TOOLS[key]}; it is not supported")
    if not isinstance(config, Mapping) or "merge_method" not in config:
        raise UserError(f"{where}: no mergekit file; expected `merge_method` and `models`")
    if "modules" in config:
        raise UserError(
            f"{where}: `modules` is not supported, since models are merged whole here, by one method; if it holds one module, write"
            " its `models` or `slices` and its `parameters` without it"
        )
    _known(where, config, KEYS)
    method = config["merge_method"]
    if not isinstance(method, str) or method not in HOSTS:
        reason = f": {OTHER_METHODS[method]}" if isinstance(method, str) and method in OTHER_METHODS else ""
        raise UserError(f"{where}: merge_method: '{method}' is not supported{reason}; supported are {', '.join(HOSTS)}")
    settings = _settings(config, where, merged or {})
    base, weights = (_linear if method == LINEAR else _around_base)(config, settings)
    if "+" in base and not local(base).is_dir():
        raise UserError(f"{where}: the base {base!r} is not supported; supported is a folder or a hub id, without an adapter")
    places = {model: _adapter(model, base, where) for model in weights if model != base}
    names = dict(sorted(zip(short_names([*places.values()]), places, strict=True)))
    method_spec, notes = _method_spec(method, settings, names, weights)
    dtype, more = _dtype(config, where)
    experts = {name: places[model] for name, model in names.items()}
    names_of = {model: name for name, model in names.items()} | {base: "base"}
    return MergekitConfig(
        HOSTS[method], base, experts, method_spec, dtype, (*notes, *more), _tokenizer(config, names_of, where, merged or {}),
        config.get("chat_template"), settings.slices[-1].layers[1] if settings.slices[-1].layers else None,
    )  # fmt: skip


def _known(where: str, keys: Iterable[str], known: Sequence[str]) -> None:
    for key in keys:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, 1)
            hint = f"did you mean `{close[0]}`?" if close else f"supported are {', '.join(known)}"
            raise UserError(f"{where}: `{key}` is not supported; {hint}")


def _tokenizer(config: Mapping[str, Any], names: Mapping[str, str], where: str, merged: Mapping[str, str]) -> str | None:
    """Return whose tokenizer the output gets: `base`, `union`, the name of a model, or None where the file says nothing."""
    if config.get("tokenizer") is None and config.get("tokenizer_source") is None:
        return None
    key, entry = "tokenizer_source", config.get("tokenizer_source")
    if config.get("tokenizer") is not None:
        if entry is not None or not isinstance(config["tokenizer"], Mapping):
            raise UserError(f"{where}: tokenizer: expected `source: base`, `union` or a model, and no `tokenizer_source` besides")
        _known(f"{where}: tokenizer", config["tokenizer"], ("source", "tokens", "pad_to_multiple_of"))
        extra = [k for k in config["tokenizer"] if k != "source" and config["tokenizer"][k] not in (None, {})]
        if extra:
            raise UserError(
                f"{where}: tokenizer: `{extra[0]}` is not supported, since it changes rows of the embedding; remove it"
            )
        key, entry = "tokenizer: source", config["tokenizer"].get("source", "union")
    if entry in ("base", "union"):
        return str(entry)
    model = _reference(entry, f"{where}: {key}", merged)
    if model not in names:
        raise UserError(f"{where}: {key}: {model!r} is none of the models; expected base, union or one of {', '.join(names)}")
    return names[model]


def _reference(entry: Any, where: str, merged: Mapping[str, str]) -> str:
    """Read a model: `model`, `model@revision`, `model+adapter`, or mergekit's mapping of `model`, `lora`, each with `path`."""
    if isinstance(entry, Mapping):
        _known(where, entry, ("model", "lora", "path", "revision", "override_architecture"))
        if entry.get("override_architecture"):
            raise UserError(f"{where}: `override_architecture` is not supported; the architecture is that of config.json")
        adapter = entry.get("lora")
        place, revision = entry.get("path", entry.get("model")), entry.get("revision")
        if not isinstance(revision, str | None):
            raise UserError(
                f"{where}: revision: expected a branch, a tag or a commit, in quotes if it is a number; found {revision!r}"
            )
        found = _reference(place, where, merged) + (f"@{revision}" if revision else "")
        return found + (f"+{_reference(adapter, where, merged)}" if adapter else "")
    if not isinstance(entry, str) or not entry:
        raise UserError(f"{where}: expected `model: <folder or hub id>`, found {entry!r}")
    model, plus, adapter = entry.partition("+")
    return merged[model] + plus + adapter if model in merged else entry


def _settings(config: Mapping[str, Any], where: str, merged: Mapping[str, str]) -> _Settings:
    """Read models and parameters, of `models` or of `slices`."""
    if ("models" in config) == ("slices" in config):
        raise UserError(f"{where}: expected either `models` or `slices`")
    parts = [_models(config, "models", where, merged)] if "models" in config else _slices(config, where, merged)
    base = config.get("base_model")
    base = None if base is None else _reference(base, f"{where}: base_model", merged)
    shared = _parameters(config, where)
    return _Settings(where, base, shared, parts)


def _parameters(entry: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    found = _mapping(entry.get("parameters"), f"{where}: parameters")
    _known(f"{where}: parameters", found, PARAMETERS)
    return found


def _models(config: Mapping[str, Any], key: str, where: str, merged: Mapping[str, str], *more: str) -> _Slice:
    """Read the list of models of a file, or of one of its slices, with their parameters."""
    if not isinstance(config.get(key), list) or not config[key]:
        raise UserError(f"{where}: {key}: expected a list of `model: <folder or hub id>`")
    models: dict[str, Mapping[str, Any]] = {}
    for number, entry in enumerate(config[key]):
        place = f"{where}: {key}[{number}]"
        if not isinstance(entry, Mapping) or "model" not in entry:
            raise UserError(f"{place}: expected `model: <folder or hub id>`, found {entry!r}")
        _known(place, entry, ("model", "parameters", *more))
        model = _reference(entry.get("model"), place, merged)
        if model in models:
            raise UserError(f"{place}: '{model}' is listed twice; leave one out")
        models[model] = _parameters(entry, f"{where}: {key}: {model}")
    return _Slice(f"{where}: {key}", None, models)


def _slices(config: Mapping[str, Any], where: str, merged: Mapping[str, str]) -> list[_Slice]:
    """Read slices that together are whole models: the same models in each, with the layers in their order."""
    if not isinstance(config["slices"], list) or not config["slices"]:
        raise UserError(f"{where}: slices: expected a list of `sources: [{{model: ..., layer_range: [0, 32]}}, ...]`")
    parts: list[_Slice] = []
    for number, entry in enumerate(config["slices"]):
        place, end = f"{where}: slices[{number}]", parts[-1].layers[1] if parts and parts[-1].layers else 0
        if not isinstance(entry, Mapping):
            raise UserError(f"{place}: expected `sources: [...]`, found {entry!r}")
        _known(place, entry, ("sources", "parameters"))
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
        parts.append(_Slice(place, (layers[0], layers[1]), part.models, _parameters(entry, place)))
    return parts


def _linear(config: Mapping[str, Any], settings: _Settings) -> tuple[str, dict[str, Varying]]:
    """Return base and weights of sum_i w_i theta_i (divided by sum_i w_i): the base is one of the models."""
    trained_on = {model.partition("+")[0] for model in settings.models}
    of_one = len(trained_on) == 1 and not any(local(model).is_dir() for model in settings.models)
    if settings.base is None and of_one and not trained_on & {*settings.models}:  # adapters of one model, which has no weight
        return trained_on.pop(), {model: settings.number("weight", model) for model in settings.models}
    base = settings.base or settings.models[0]
    return base, {model: settings.number("weight", model) for model in dict.fromkeys([*settings.models, base])}


def _around_base(config: Mapping[str, Any], settings: _Settings) -> tuple[str, dict[str, Varying]]:
    """Return base and weights of a method that adds task vectors; a weight of the base has no effect."""
    if settings.base is None:
        raise UserError(f"{settings.where}: base_model: '{config['merge_method']}' needs one, a folder or a hub id")
    base = settings.base
    return base, {model: settings.number("weight", model) for model in settings.models if model != base}


def _method_spec(
    method: str, settings: _Settings, names: Mapping[str, str], weights: Mapping[str, Varying]
) -> tuple[dict[str, Any], list[str]]:
    """Return the spec of a method whose experts, `names` of models, have weights by model; and notes."""
    notes = [*settings.ignored(method)]
    if not names:
        raise UserError(f"{settings.where}: models: no model besides the base; expected at least one")
    of_experts = {name: weights[model] for name, model in names.items()}
    if method == LINEAR:
        own = dict([("base", weight) for model, weight in weights.items() if model not in names.values()])
        return _averaged(of_experts, own, settings.flag("normalize", True), settings.where), notes
    sparsify = {TIES: _trimmed, DARE_LINEAR: _dropped, DARE_TIES: _dropped}.get(method)
    normalize = settings.flag("normalize", method == TIES)
    stages, of_experts, factor, more = (
        sparsify(method, settings, names, of_experts, normalize) if sparsify else ({}, of_experts, 1.0, [])
    )
    scale = _each(settings.number("lambda", default=1.0), lambda number: number * factor)
    combined = (_elected if method in (TIES, DARE_TIES) else _summed)(of_experts, scale, normalize, settings.where)
    return {**stages, **combined}, [*notes, *more]


Sparsified = tuple[dict[str, Any], dict[str, Varying], float, list[str]]  # stages, weights, factor of all weights, notes


def _trimmed(
    method: str, settings: _Settings, names: Mapping[str, str], weights: dict[str, Varying], normalize: bool
) -> Sparsified:
    """Return the `preprocess` stage of a method that keeps the largest entries."""
    if settings.flag("rescale", False):
        raise UserError(f"{settings.where}: parameters.rescale: true is not supported for '{method}'; supported is false")
    density = _densities(settings, names)
    return ({} if density == 1 else {"preprocess": {"trim": {"density": density, "scope": "tensor"}}}), weights, 1.0, []


def _dropped(
    method: str, settings: _Settings, names: Mapping[str, str], weights: dict[str, Varying], normalize: bool
) -> Sparsified:
    """Return the `preprocess` stage of a method that drops entries at random, and what is left to multiply."""
    density, rescale, factor = _densities(settings, names), settings.flag("rescale", True), 1.0
    if density == 1:
        return {}, weights, 1.0, []
    note = "density: other entries are dropped than by mergekit, whose draws follow another stream"
    if rescale:
        note += (
            "; the rest is divided by the density (DARE, arXiv 2311.03099), where mergekit restores the sum of magnitudes of"
            " each tensor"
        )
    elif isinstance(density, float):
        factor = density
    else:
        shares = {name: density[name] if isinstance(density, Mapping) else density for name in names}
        if normalize or any(isinstance(share, list) for share in shares.values()):
            raise UserError(
                f"{settings.where}: parameters.rescale: false with densities that differ between tensors, or between models with"
                " `normalize: true`, is not supported; set `rescale: true`, or one density"
            )
        weights = {name: _each(weight, functools.partial(operator.mul, shares[name])) for name, weight in weights.items()}
    rates = (
        {name: _each(each, _complement) for name, each in density.items()}
        if isinstance(density, Mapping)
        else _each(density, _complement)
    )
    return {"preprocess": {"drop": {"rate": rates}}}, weights, factor, [note]


def _complement(density: float) -> float:
    return round(1 - density, 12)


def _densities(settings: _Settings, names: Mapping[str, str]) -> Varying | dict[str, Varying]:
    """Return the share of entries that stay: one for all experts, or by name; at most 1."""
    found = {name: settings.number("density", model, 1.0) for name, model in names.items()}
    for number in (number for density in found.values() for number in _numbers(density)):
        if number <= 0:
            raise UserError(f"{settings.where}: density: expected a share above 0 and up to 1, found {number:g}")
    found = {name: _each(density, lambda number: min(1.0, number)) for name, density in found.items()}
    first = next(iter(found.values()))
    return first if all(density == first for density in found.values()) else found


def _averaged(weights: Mapping[str, Varying], own: Mapping[str, Varying], normalize: bool, where: str) -> dict[str, Any]:
    """Return the stages of a weighted mean of whole models, the base with the weight `own`, if any, among them."""
    if any(map(varies, [*weights.values(), *own.values()])):
        values = {"values": {**weights, "base": own.get("base", 0.0)}}
        return {
            "coefficients": {"given": {**values, **({"normalise": True} if normalize else {})}},
            "combine": {"weighted_sum": {}},
        }
    total = float(sum(weights.values()) + sum(own.values()))
    if not normalize:
        if abs(total - 1) > 1e-6:
            raise UserError(
                f"{where}: parameters.normalize: false with weights that sum to {total:g} scales the whole model, which"
                " no merge of task vectors does; supported are weights that sum to 1, or `normalize: true`"
            )
        total = 1.0
    if total == 0:
        raise UserError(f"{where}: the weights sum to 0 and cannot be normalised; correct them")
    return _with({name: weight / total for name, weight in weights.items()}, "weighted_sum")


def _summed(weights: Mapping[str, Varying], scale: Varying, normalize: bool, where: str) -> dict[str, Any]:
    if any(map(varies, [*weights.values(), scale])):
        given = {"values": dict(weights), **({"normalise": True} if normalize else {})}
        return {"coefficients": {"given": given}, "combine": {"weighted_sum": {}}, **_scaled(scale)}
    total = sum(weights.values())
    scale /= total if normalize and abs(total) >= 1e-8 else 1.0
    return _with({name: scale * weight for name, weight in weights.items()}, "weighted_sum")


def _elected(weights: Mapping[str, Varying], scale: Varying, normalize: bool, where: str) -> dict[str, Any]:
    varying = any(map(varies, [*weights.values(), scale]))
    if not normalize and not varying:
        return _with({name: scale * weight for name, weight in weights.items()}, "disjoint_sum")
    if not normalize:
        return {**_with(weights, "disjoint_sum"), **_scaled(scale)}
    if min(number for weight in weights.values() for number in _numbers(weight)) < 0:
        raise UserError(f"{where}: weight: a negative one is not supported with `normalize: true`; set `normalize: false`")
    if not varying and min(weights.values()) == max(weights.values()) > 0:  # equal weights cancel
        return _with(dict.fromkeys(weights, scale), "disjoint_mean")
    return {**_with(weights, "disjoint_mean", divide_by="coefficients"), **_scaled(scale)}


def _scaled(scale: Varying) -> dict[str, Any]:
    return {} if scale == 1 else {"postprocess": {"scale": {"factor": scale}}}


def _with(coefficients: Mapping[str, Varying], combine: str, **settings: Any) -> dict[str, Any]:
    first = next(iter(coefficients.values()))
    equal = not varies(first) and all(value == first for value in coefficients.values())
    rule = {"constant": {"value": first}} if equal else {"given": {"values": dict(coefficients)}}
    return {"coefficients": rule, "combine": {combine: settings}}


def _dtype(config: Mapping[str, Any], where: str) -> tuple[str | None, list[str]]:
    types = {key: str(config[key]).removeprefix("torch.") for key in ("dtype", "out_dtype") if config.get(key) is not None}
    for key, name in types.items():
        if name not in TYPES:
            raise UserError(f"{where}: {key}: '{name}' is not supported; supported are {', '.join(TYPES)}")
    computed = types.get("dtype", "the type of the files")
    note = f"dtype: mergekit computes in {computed}; here it is float32 or wider, rounded once"
    return types.get("out_dtype", types.get("dtype")), [] if computed in ("float32", "float64") else [note]


def _adapter(model: str, base: str, where: str) -> str:
    """Read `model+adapter`: the place of the adapter, which is trained on the base; a folder of that name is a model."""
    if "+" not in model or local(model).is_dir():
        return model
    if not model.startswith(f"{base}+"):
        raise UserError(
            f"{where}: models: {model}: its adapter was trained on another model than the base {base}; merge it first"
        )
    return model.removeprefix(f"{base}+")
