"""Translate the methods of mergekit, with their parameters, into method specs."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from typing import Any

from nan_merge.core.errors import UserError
from nan_merge.methods.varying import numbers, varies
from nan_merge.standalone.mergekit_parameters import (
    DARE_LINEAR,
    DARE_TIES,
    LINEAR,
    TIES,
    Settings,
    Varying,
    each_number,
)  # fmt: skip
from nan_merge.standalone.sources import local

Sparsified = tuple[dict[str, Any], dict[str, Varying], float, list[str]]  # stages, weights, factor of all weights, notes


def around_a_model(config: Mapping[str, Any], settings: Settings) -> tuple[str, dict[str, Varying]]:
    """Return base and weights of sum_i w_i theta_i (divided by sum_i w_i): the base is one of the models."""
    trained_on = {model.partition("+")[0] for model in settings.models}
    of_one = len(trained_on) == 1 and not any("+" in model and local(model).is_dir() for model in settings.models)
    if settings.base is None and of_one:  # adapters of one model, which has a weight if it is listed
        return trained_on.pop(), {model: settings.number("weight", model) for model in settings.models}
    base = settings.base or settings.models[0]
    return base, {model: settings.number("weight", model) for model in dict.fromkeys([*settings.models, base])}


def around_base(config: Mapping[str, Any], settings: Settings) -> tuple[str, dict[str, Varying]]:
    """Return base and weights of a method that adds task vectors; a weight of the base has no effect."""
    if settings.base is None:
        raise UserError(f"{settings.where}: base_model: '{config['merge_method']}' needs one, a folder or a hub id")
    base = settings.base
    return base, {model: settings.number("weight", model) for model in settings.models if model != base}


def method_spec_of(
    method: str, settings: Settings, names: Mapping[str, str], weights: Mapping[str, Varying]
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
    scale = each_number(settings.number("lambda", default=1.0), lambda number: number * factor)
    combined = (_elected if method in (TIES, DARE_TIES) else _summed)(of_experts, scale, normalize, settings.where)
    return {**stages, **combined}, [*notes, *more]


def _trimmed(
    method: str, settings: Settings, names: Mapping[str, str], weights: dict[str, Varying], normalize: bool
) -> Sparsified:
    """Return the `preprocess` stage of a method that keeps the largest entries."""
    if settings.flag("rescale", False):
        raise UserError(f"{settings.where}: parameters.rescale: true is not supported for '{method}'; supported is false")
    density = _densities(settings, names)
    return ({} if density == 1 else {"preprocess": {"trim": {"density": density, "scope": "tensor"}}}), weights, 1.0, []


def _dropped(
    method: str, settings: Settings, names: Mapping[str, str], weights: dict[str, Varying], normalize: bool
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
        weights = {name: each_number(weight, functools.partial(operator.mul, shares[name])) for name, weight in weights.items()}
    rates = (
        {name: each_number(each, _complement) for name, each in density.items()}
        if isinstance(density, Mapping)
        else each_number(density, _complement)
    )
    return {"preprocess": {"drop": {"rate": rates}}}, weights, factor, [note]


def _complement(density: float) -> float:
    return round(1 - density, 12)


def _densities(settings: Settings, names: Mapping[str, str]) -> Varying | dict[str, Varying]:
    """Return the share of entries that stay: one for all experts, or by name; at most 1."""
    found = {name: settings.number("density", model, 1.0) for name, model in names.items()}
    for number in (number for density in found.values() for number in numbers(density)):
        if number <= 0:
            raise UserError(f"{settings.where}: density: expected a share above 0 and up to 1, found {number:g}")
    found = {name: each_number(density, lambda number: min(1.0, number)) for name, density in found.items()}
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
    if min(number for weight in weights.values() for number in numbers(weight)) < 0:
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
