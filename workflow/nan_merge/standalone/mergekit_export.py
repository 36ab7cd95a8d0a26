"""Write a coefficient table as a config for mergekit (0.1.5), which then makes the same merge.

A method without a counterpart is a UserError; small differences are comments in the file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from nan_merge.core.errors import UserError
from nan_merge.layouts.unify import Models
from nan_merge.methods.coefficients import MODEL, CoefficientTable, row_of
from nan_merge.methods.recipe import DEFAULTS, operator_in

HEAD = "# Coefficients of NAN-Merge for mergekit 0.1.5."  # the first line of a config, by which it is known again
METHODS = {  # (preprocess, elects signs): merge_method
    ("identity", False): "task_arithmetic",
    ("identity", True): "ties",
    ("trim", True): "ties",
    ("drop", False): "dare_linear",
    ("drop", True): "dare_ties",
}
COMBINE = ("weighted_sum", "disjoint_sum", "disjoint_mean")
TYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}


def export(
    method_spec: Mapping[str, Any], table: CoefficientTable, models: Models, places: Mapping[str, str], dtype: str | None = None
) -> str:
    """Return the YAML of a mergekit config with the coefficients of a table.

    `places` are folders or hub ids of `base` and of every expert; without `dtype` the output has the type of most of the
    base. Raises UserError if mergekit has no counterpart of the method.
    """
    comments: list[str] = []
    shared, factor = _parameters(method_spec, table, comments)
    method = shared.pop("merge_method")
    config = {
        "merge_method": method,
        "base_model": places["base"],
        "models": [
            {"model": place, "parameters": {"weight": _setting(_values(models, table, t, factor), expert)}}
            for t, (expert, place) in enumerate((expert, places[expert]) for expert in table.experts)
        ],
        "parameters": shared,
        "dtype": "float32",
        "out_dtype": dtype or _common_type(models),
    }
    comments += [f"not known to mergekit: {note}" for note in models.notes]
    head = "".join(f"# {line}\n" for line in comments)
    return f"{HEAD}\n{head}" + yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=120)


def check_method(method_spec: Mapping[str, Any]) -> None:
    """Raise a UserError for operators that mergekit does not have."""
    preprocess, combine, after = (operator_in(method_spec, stage)[0] for stage in ("preprocess", "combine", "postprocess"))
    if (space := operator_in(method_spec, "space")[0]) != DEFAULTS["space"]:
        raise UserError(f"--export-mergekit: mergekit has no counterpart of the space '{space}'; merge it here")
    if after != DEFAULTS["postprocess"]:
        raise UserError(f"--export-mergekit: mergekit has no counterpart of the postprocess '{after}'; merge it here")
    if (preprocess, combine != "weighted_sum") not in METHODS or combine not in COMBINE:
        raise UserError(f"--export-mergekit: mergekit has no counterpart of '{preprocess}' with '{combine}'; merge it here")


def _parameters(method_spec: Mapping[str, Any], table: CoefficientTable, comments: list[str]) -> tuple[dict[str, Any], float]:
    """Return merge_method and global parameters, and the factor between a coefficient and mergekit's weight."""
    check_method(method_spec)
    (preprocess, preprocess_values), (combine, combine_values) = (
        operator_in(method_spec, stage) for stage in ("preprocess", "combine")
    )
    elects = combine != "weighted_sum"
    coefficients = {value for row in table.rows.values() for value in row}
    equal = len(coefficients) == 1
    if combine_values.get("elect") == "unweighted" and not (equal and min(coefficients) > 0):
        raise UserError("--export-mergekit: mergekit elects signs after weighting; set combine.*.elect=weighted or merge it here")
    shared: dict[str, Any] = {"merge_method": METHODS[preprocess, elects], "normalize": combine == "disjoint_mean"}
    scale = 1.0
    if preprocess == "trim":
        shared["density"] = preprocess_values.get("density", 0.2)
        if preprocess_values.get("scope", MODEL) == MODEL:
            comments.append("mergekit keeps the share `density` of each tensor; NAN-Merge kept it of the whole model")
    if preprocess == "drop":
        rate = preprocess_values.get("rate", 0.9)
        shared |= {"density": round(1 - rate, 12), "rescale": False}
        scale = 1 / (1 - rate)
        comments.append(f"the weights include the factor 1 / (1 - {rate:g}) of DARE; mergekit drops other entries at random")
    if combine != "disjoint_mean":
        return shared, scale
    return _mean(shared, table, combine_values.get("divide_by", "count"), equal, scale)


def _mean(
    shared: dict[str, Any], table: CoefficientTable, divide_by: str, equal: bool, scale: float
) -> tuple[dict[str, Any], float]:
    """Return parameters and factor of a mean over the agreeing experts: mergekit divides by their weights."""
    coefficients = [value for row in table.rows.values() for value in row]
    if min(coefficients) < 0 or (divide_by == "count" and not equal):
        raise UserError(
            "--export-mergekit: mergekit divides a mean by the weights of the agreeing models, which have to be positive; set"
            " combine.disjoint_mean.divide_by=coefficients or merge it here"
        )
    if divide_by == "count":  # the common coefficient cancels against the weights, so it goes into `lambda`
        return {**shared, "lambda": coefficients[0] * scale}, 1 / coefficients[0] if coefficients[0] else 1.0
    return {**shared, "lambda": scale}, 1.0


def _values(models: Models, table: CoefficientTable, expert: int, factor: float) -> dict[str, float]:
    """Return mergekit's weight of one expert for every float tensor of the base; 0 for those that stay at the base."""
    merged = set(models.merged)
    floats = [name for name, entry in models.base.entries.items() if entry.is_float]
    return {name: table.at(name)[expert] * factor if name in merged else 0.0 for name in floats}


def _setting(values: Mapping[str, float], expert: str) -> float | list[dict[str, Any]]:
    """Return the weights of one expert as one number, or as filters: the first contained in a tensor's name applies."""
    layers: dict[str, set[float]] = {}
    for name, value in values.items():
        layers.setdefault(row_of(name, "layer"), set()).add(value)
    layer_of = {name: row_of(name, "layer") for name in values}
    short = {name for name, layer in layer_of.items() if name.startswith(f"{layer}.") and len(layers[layer]) == 1}
    rest = Counter(value for name, value in values.items() if name not in short or len(short) == len(values)).most_common(1)[0][0]
    filters = {f"{layer_of[name]}." if name in short else name: value for name, value in values.items() if value != rest}
    if not filters:
        return rest
    order = sorted(filters, key=lambda text: (-len(text), text))
    for name, value in values.items():
        if next((filters[text] for text in order if text in name), rest) != value:
            raise UserError(f"--export-mergekit: no filter tells tensor '{name}' of expert '{expert}' from others; merge it here")
    return [*({"filter": text, "value": filters[text]} for text in order), {"value": rest}]


def _common_type(models: Models) -> str | None:
    sizes: Counter[str] = Counter()
    for entry in models.base.entries.values():
        sizes[entry.dtype] += entry.size if entry.dtype in TYPES else 0
    return TYPES.get(sizes.most_common(1)[0][0])


def check_names(places: Sequence[str]) -> None:
    """Raise a UserError for a path that mergekit would split at `+` or `@`."""
    for place in places:
        if "+" in place or place.count("@") > 1:
            raise UserError(f"--export-mergekit: {place}: mergekit splits a path at '+' and '@'; rename the folder")
