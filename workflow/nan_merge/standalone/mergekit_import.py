"""Translate mergekit's YAML into method specs, for the methods that both projects have.

The meaning of each key is that of mergekit 0.1.5 (`merge_methods/linear.py`, `generalized_task_arithmetic.py`,
`sparsify.py`). A key without a counterpart is a UserError that names it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nan_merge.core.errors import UserError
from nan_merge.standalone.sources import short_names

LINEAR, TASK_ARITHMETIC, TIES, DARE_LINEAR, DARE_TIES = "linear", "task_arithmetic", "ties", "dare_linear", "dare_ties"
HOSTS = {  # the closest method of config/methods.yaml
    LINEAR: "weight_averaging",
    TASK_ARITHMETIC: "task_arithmetic",
    TIES: "ties",
    DARE_LINEAR: "dare",
    DARE_TIES: "dare_ties",
}
KEYS = ("merge_method", "models", "base_model", "parameters", "dtype", "out_dtype", "tokenizer_source", "tokenizer")
PARAMETERS = ("weight", "density", "normalize", "lambda", "rescale", "int8_mask")
TYPES = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class MergekitConfig:
    """A mergekit file as a method spec; `notes` list the differences."""

    host: str
    base: str
    experts: dict[str, str]  # name -> folder or hub id
    method_spec: dict[str, Any]
    dtype: str | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Settings:
    """The parameters of one file: those of a model take precedence over those of all."""

    where: str
    base: str | None
    shared: Mapping[str, Any]
    models: Mapping[str, Mapping[str, Any]]

    def flag(self, key: str, default: bool) -> bool:
        """Return a boolean parameter of the whole merge."""
        value = self._plain(self.shared[key], f"parameters.{key}") if key in self.shared else default
        if not isinstance(value, bool):
            raise UserError(f"{self.where}: parameters.{key}: expected true or false, found {value!r}")
        return value

    def number(self, key: str, model: str = "", default: float | None = None) -> float:
        """Return a numeric parameter of one model, or of the whole merge."""
        for place, settings in ((f"models: {model}: parameters", self.models.get(model, {})), ("parameters", self.shared)):
            if key in settings:
                return self._number(self._plain(settings[key], f"{place}.{key}"), f"{place}.{key}")
        if default is None:
            raise UserError(f"{self.where}: models: {model}: has no `{key}`, and `parameters` has none for all; write one")
        return default

    def _plain(self, value: Any, key: str) -> Any:
        if isinstance(value, list | dict):
            raise UserError(f"{self.where}: {key}: {value} is a gradient over layers or a filter; supported is one plain value")
        return value

    def _number(self, value: Any, key: str) -> float:
        try:
            return float(value)
        except (TypeError, ValueError):
            raise UserError(f"{self.where}: {key}: expected a number, found {value!r}") from None


def translate(config: Any, where: str) -> MergekitConfig:
    """Translate the content of a mergekit file; `where` names the file in messages.

    Raises UserError for a key, a method or a value without a counterpart.
    """
    if not isinstance(config, Mapping) or "merge_method" not in config:
        raise UserError(f"{where}: no mergekit file; expected `merge_method` and `models`")
    for key in ("slices", "modules"):
        if key in config:
            raise UserError(f"{where}: `{key}` is not supported; supported is `models`, whole models of one architecture")
    _known(where, config, KEYS)
    method = config["merge_method"]
    if method not in HOSTS:
        raise UserError(f"{where}: merge_method: '{method}' is not supported; supported are {', '.join(HOSTS)}")
    _check_tokenizer(config, where)
    settings = _settings(config, where)
    base, weights = (_linear if method == LINEAR else _around_base)(config, settings)
    if not isinstance(base, str) or "+" in base:
        raise UserError(f"{where}: the base {base!r} is not supported; supported is a folder or a hub id, without an adapter")
    places = [_adapter(model, base, where) for model in weights]
    experts = dict(sorted(zip(short_names(places), places, strict=True)))
    weight_of = dict(zip(places, weights.values(), strict=True))
    method_spec, notes = _method_spec(method, settings, {name: weight_of[place] for name, place in experts.items()})
    dtype, more = _dtype(config, where)
    return MergekitConfig(HOSTS[method], base, experts, method_spec, dtype, (*notes, *more))


def _known(where: str, keys: Iterable[str], known: Sequence[str]) -> None:
    for key in keys:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, 1)
            hint = f"did you mean `{close[0]}`?" if close else f"supported are {', '.join(known)}"
            raise UserError(f"{where}: `{key}` is not supported; {hint}")


def _check_tokenizer(config: Mapping[str, Any], where: str) -> None:
    tokenizer = config.get("tokenizer") or {"source": config.get("tokenizer_source")}
    if tokenizer not in ({"source": None}, {"source": "base"}):
        key = "tokenizer" if config.get("tokenizer") else "tokenizer_source"
        raise UserError(f"{where}: {key}: {config[key]!r} is not supported; supported is the tokenizer of the base (`base`)")


def _settings(config: Mapping[str, Any], where: str) -> _Settings:
    if not isinstance(config.get("models"), list) or not config["models"]:
        raise UserError(f"{where}: models: expected a list of `model: <folder or hub id>`")
    models: dict[str, Mapping[str, Any]] = {}
    for number, entry in enumerate(config["models"]):
        if not isinstance(entry, Mapping) or not isinstance(entry.get("model"), str):
            raise UserError(f"{where}: models[{number}]: expected `model: <folder or hub id>`, found {entry!r}")
        _known(f"{where}: models[{number}]", entry, ("model", "parameters"))
        if entry["model"] in models:
            raise UserError(f"{where}: models[{number}]: '{entry['model']}' is listed twice; leave one out")
        models[entry["model"]] = entry.get("parameters") or {}
    base, shared = config.get("base_model"), config.get("parameters") or {}
    for place, parameters in (("", shared), *((f": models: {model}", own) for model, own in models.items())):
        _known(f"{where}{place}: parameters", parameters, PARAMETERS)
    return _Settings(where, base, shared, models)


def _linear(config: Mapping[str, Any], settings: _Settings) -> tuple[str, dict[str, float]]:
    """Return base and coefficients of sum_i w_i theta_i (divided by sum_i w_i): the base is one of the models."""
    base = settings.base or next(iter(settings.models))
    weights = {model: settings.number("weight", model) for model in dict.fromkeys([*settings.models, base])}
    total = sum(weights.values())
    if not settings.flag("normalize", True):
        if abs(total - 1) > 1e-6:
            raise UserError(
                f"{settings.where}: parameters.normalize: false with weights that sum to {total:g} scales the whole model, which"
                " no merge of task vectors does; supported are weights that sum to 1, or `normalize: true`"
            )
        total = 1.0
    if total == 0:
        raise UserError(f"{settings.where}: the weights sum to 0 and cannot be normalised; correct them")
    return base, {model: weight / total for model, weight in weights.items() if model != base}


def _around_base(config: Mapping[str, Any], settings: _Settings) -> tuple[str, dict[str, float]]:
    """Return base and weights of a method that adds task vectors; a weight of the base has no effect."""
    if settings.base is None:
        raise UserError(f"{settings.where}: base_model: '{config['merge_method']}' needs one, a folder or a hub id")
    base = settings.base
    return base, {model: settings.number("weight", model) for model in settings.models if model != base}


def _method_spec(method: str, settings: _Settings, weights: Mapping[str, float]) -> tuple[dict[str, Any], list[str]]:
    """Return the spec of a method whose experts have these weights, by name; and notes."""
    notes = ["int8_mask: has no effect here and is ignored"] if settings.flag("int8_mask", False) else []
    if not weights:
        raise UserError(f"{settings.where}: models: no model besides the base; expected at least one")
    if method == LINEAR:
        return _with(weights, "weighted_sum"), notes
    preprocess, scale, more = ({}, 1.0, []) if method == TASK_ARITHMETIC else _sparsified(method, settings)
    scale *= settings.number("lambda", default=1.0)
    normalize = settings.flag("normalize", method == TIES)
    combined = (_elected if method in (TIES, DARE_TIES) else _summed)(weights, scale, normalize, settings.where)
    return {**preprocess, **combined}, [*notes, *more]


def _sparsified(method: str, settings: _Settings) -> tuple[dict[str, Any], float, list[str]]:
    """Return the `preprocess` stage, the remaining factor of the weights, and notes."""
    drops = method in (DARE_LINEAR, DARE_TIES)
    density, rescaled = _density(settings), settings.flag("rescale", drops)
    if rescaled and not drops:
        raise UserError(f"{settings.where}: parameters.rescale: true is not supported for '{method}'; supported is false")
    if density >= 1:
        return {}, 1.0, []
    if not drops:
        return {"preprocess": {"trim": {"density": density, "scope": "tensor"}}}, 1.0, []
    note = "density: other entries are dropped than by mergekit, whose draws follow another stream"
    if rescaled:
        note += (
            "; the rest is divided by the density (DARE, arXiv 2311.03099), where mergekit restores the sum of magnitudes of"
            " each tensor"
        )
    return {"preprocess": {"drop": {"rate": round(1 - density, 12)}}}, 1.0 if rescaled else density, [note]


def _density(settings: _Settings) -> float:
    base = settings.base
    densities = {settings.number("density", model, 1.0) for model in settings.models if model != base}
    if len(densities) > 1:
        raise UserError(f"{settings.where}: density: {sorted(densities)} differ between models; supported is one for all")
    (density,) = densities
    if density <= 0:
        raise UserError(f"{settings.where}: density: expected a share above 0 and up to 1, found {density:g}")
    return density


def _summed(weights: Mapping[str, float], scale: float, normalize: bool, where: str) -> dict[str, Any]:
    total = sum(weights.values())
    scale /= total if normalize and abs(total) >= 1e-8 else 1.0
    return _with({name: scale * weight for name, weight in weights.items()}, "weighted_sum")


def _elected(weights: Mapping[str, float], scale: float, normalize: bool, where: str) -> dict[str, Any]:
    if not normalize:
        return _with({name: scale * weight for name, weight in weights.items()}, "disjoint_sum")
    if min(weights.values()) < 0:
        raise UserError(f"{where}: weight: a negative one is not supported with `normalize: true`; set `normalize: false`")
    if min(weights.values()) == max(weights.values()) > 0:  # equal weights cancel
        return _with(dict.fromkeys(weights, scale), "disjoint_mean")
    if scale != 1:
        raise UserError(
            f"{where}: `normalize: true` with a factor of {scale:g} (`lambda`, or a density that is not rescaled) is supported"
            " for equal weights only; make them equal or set `normalize: false`"
        )
    return _with(weights, "disjoint_mean", divide_by="coefficients")


def _with(coefficients: Mapping[str, float], combine: str, **settings: Any) -> dict[str, Any]:
    different = {*coefficients.values()}
    rule = {"given": {"values": dict(coefficients)}} if len(different) > 1 else {"constant": {"value": different.pop()}}
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
    """Read `model+adapter`: the folder or hub id of the adapter, which is trained on the base."""
    trained_on, plus, adapter = model.partition("+")
    if plus and trained_on != base:
        raise UserError(
            f"{where}: models: {model}: its adapter was trained on another model than the base {base}; merge it first"
        )
    return adapter if plus else model
