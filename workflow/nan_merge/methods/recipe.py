"""Bind a method's method_spec (names and hyper-parameters) to functions; nothing here knows any method by name."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from nan_merge.core.errors import UserError
from nan_merge.methods import (
    ace,
    coefficients,
    combine,
    covariance,
    geometry,
    postprocess,
    preprocess,
    rescale,
    sparsify,
    spectral,
)
from nan_merge.methods.context import TensorContext

Operator = Callable[..., Any]
PREPROCESS = preprocess.PREPROCESS | sparsify.PREPROCESS | rescale.PREPROCESS
COMBINE = combine.COMBINE | sparsify.COMBINE | geometry.COMBINE | spectral.COMBINE | covariance.COMBINE | ace.COMBINE
STAGES: dict[str, dict[str, Operator]] = {
    "preprocess": PREPROCESS,
    "coefficients": coefficients.COEFFICIENTS,
    "control": coefficients.CONTROL,
    "combine": COMBINE,
    "postprocess": postprocess.POSTPROCESS | rescale.POSTPROCESS,
}
DEFAULTS = {
    "preprocess": "identity",
    "coefficients": "uniform",
    "control": "kept",
    "combine": "weighted_sum",
    "postprocess": "unchanged",
}


@functools.cache  # asked for by every method of every suite before the graph is built
def hyper_parameters(operator: Operator) -> Mapping[str, tuple[Any, Any]]:
    """Return the annotation and the default (`inspect.Parameter.empty` if there is none) of each hyper-parameter of a word."""
    hints = get_type_hints(operator, include_extras=True)
    return {
        p.name: (hints[p.name], p.default) for p in inspect.signature(operator).parameters.values() if p.kind is p.KEYWORD_ONLY
    }


TABLE_HYPER_PARAMETERS = hyper_parameters(coefficients.estimate)  # of every coefficient word: which norms, over what


@dataclass(frozen=True)
class Recipe:
    """The bound functions of one method, and what must be measured for them (see `requirements`)."""

    preprocess: functools.partial[Any]
    estimate: functools.partial[Any]
    combine: functools.partial[Any]
    postprocess: functools.partial[Any]
    requirements: Mapping[str, Mapping[str, Any]]

    @property
    def whole(self) -> bool:
        """Whether a word must see whole tensors; otherwise the merge goes piece by piece."""
        return any(getattr(operator.func, "whole", False) for operator in (self.preprocess, self.combine, self.postprocess))

    @property
    def is_linear(self) -> bool:
        """Whether the merge is theta_0 + sum_t c_t tau_t."""
        operators = (self.preprocess.func, self.combine.func, self.postprocess.func)
        return operators == (preprocess.identity, combine.weighted_sum, postprocess.unchanged)

    def merge(self, taus: Any, alpha: Sequence[Any], context: TensorContext) -> Any:
        """Combine and postprocess the processed task vectors (T, ...) of one tensor: (...)."""
        return self.postprocess(self.combine(taus, alpha, context), taus if self.whole else (), context)


def bind(method_spec: Mapping[str, Any], method: str = "method") -> Recipe:
    """Bind `{slot: {word: {hyper-parameter: value}}}`; unknown slots, words and hyper-parameters are UserErrors."""
    for stage in method_spec:
        if stage not in STAGES:
            raise UserError(f"method '{method}': no slot {stage!r}{_nearest(stage, STAGES)}")
    parts = {stage: operator_of(method_spec.get(stage, DEFAULTS[stage]), stage, method) for stage in STAGES}
    table = {k: parts["coefficients"][1].pop(k) for k in TABLE_HYPER_PARAMETERS.keys() & parts["coefficients"][1].keys()}
    bound = {stage: functools.partial(STAGES[stage][name], **given) for stage, (name, given) in parts.items()}
    estimate = functools.partial(coefficients.estimate, operator=bound["coefficients"], control=bound["control"], **table)
    return Recipe(bound["preprocess"], estimate, bound["combine"], bound["postprocess"], requirements(method_spec, method))


def requirements(method_spec: Mapping[str, Any], method: str = "method") -> dict[str, dict[str, Any]]:
    """Return what the operators of a method declare with `@requires`: {kind: hyper-parameters of the operator, with defaults}."""
    kinds: dict[str, dict[str, Any]] = {}
    for stage in STAGES:
        name, values = operator_of(method_spec.get(stage, DEFAULTS[stage]), stage, method)
        operator = STAGES[stage][name]
        if kind := getattr(operator, "requires", None):
            kinds[kind] = {key: values.get(key, default) for key, (_, default) in hyper_parameters(operator).items()}
    return kinds


def operator_of(entry: Any, stage: str, method: str = "method") -> tuple[str, dict[str, Any]]:
    """Read `word` or `{word: {hyper-parameter: value}}` of one slot and check it against the word's signature."""
    if not isinstance(entry, str) and (not isinstance(entry, Mapping) or len(entry) != 1):
        raise UserError(f"method '{method}': {stage} takes one word, or one word with its hyper-parameters; found {entry!r}")
    name, given = (entry, {}) if isinstance(entry, str) else next(iter(entry.items()))
    given = given or {}
    if name not in STAGES[stage]:
        raise UserError(f"method '{method}': {stage} has no word {name!r}{_nearest(name, STAGES[stage])}")
    takes = hyper_parameters(STAGES[stage][name]).keys() | (TABLE_HYPER_PARAMETERS.keys() if stage == "coefficients" else set())
    for key in given:
        if key not in takes:
            raise UserError(f"method '{method}': {stage} '{name}' takes {sorted(takes)}, not {key!r}{_nearest(key, takes)}")
    return name, dict(given)


def _nearest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {sorted(known)}"
