"""Bind a method spec (operators and hyper-parameters by stage) to functions; no method is known by name here."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from nan_merge.core.errors import UserError
from nan_merge.core.names import nearest
from nan_merge.methods import (
    ace,
    coefficients,
    combine,
    covariance,
    geometry,
    importance,
    interference,
    orthogonal,
    postprocess,
    preprocess,
    rescale,
    spaces,
    sparsify,
    spectral,
    units,
)
from nan_merge.methods.context import TensorContext
from nan_merge.methods.varying import check_cases, value_at

Operator = Callable[..., Any]
PREPROCESS = preprocess.PREPROCESS | sparsify.PREPROCESS | importance.PREPROCESS | rescale.PREPROCESS | units.PREPROCESS
COMBINE = combine.COMBINE | sparsify.COMBINE | importance.COMBINE | geometry.COMBINE | orthogonal.COMBINE | spectral.COMBINE
COMBINE |= covariance.COMBINE | interference.COMBINE | ace.COMBINE | units.COMBINE
STAGES: dict[str, dict[str, Operator]] = {
    "space": spaces.SPACES,
    "preprocess": PREPROCESS,
    "coefficients": coefficients.COEFFICIENTS,
    "control": coefficients.CONTROL,
    "combine": COMBINE,
    "postprocess": postprocess.POSTPROCESS | rescale.POSTPROCESS,
}
DEFAULTS = {
    "space": "full",
    "preprocess": "identity",
    "coefficients": "uniform",
    "control": "kept",
    "combine": "weighted_sum",
    "postprocess": "unchanged",
}


@functools.cache  # called for every method of every suite before the graph is built
def hyper_parameters(operator: Operator) -> Mapping[str, tuple[Any, Any]]:
    """Return (annotation, default) of each hyper-parameter of an operator; `inspect.Parameter.empty` for no default."""
    hints = get_type_hints(operator, include_extras=True)
    return {
        p.name: (hints[p.name], p.default) for p in inspect.signature(operator).parameters.values() if p.kind is p.KEYWORD_ONLY
    }


@functools.cache
def all_hyper_parameters(operator: Operator) -> Mapping[str, tuple[Any, Any]]:
    """Return the hyper-parameters of an operator; of a coefficient rule also those of `estimate`: which norms, what scale."""
    own = hyper_parameters(operator)
    if operator not in STAGES["coefficients"].values():
        return own
    unused = set() if coefficients.what_it_reads(operator) == "norms" else {"norm_of", "scope", "only"}
    unused |= {*coefficients.SCALE} if coefficients.is_finished(operator) else set()
    return {**{k: v for k, v in hyper_parameters(coefficients.estimate).items() if k not in unused}, **own}


@dataclass(frozen=True)
class Recipe:
    """The bound operators of one method, and the measurements that they require (see `requirements`)."""

    preprocess: functools.partial[Any]
    estimate: functools.partial[Any]
    combine: functools.partial[Any]
    postprocess: functools.partial[Any]
    requirements: Mapping[str, Mapping[str, Any]]
    space: functools.partial[Any]

    @property
    def whole(self) -> bool:
        """Whether an operator needs whole tensors; otherwise the merge runs piece by piece."""
        return any(getattr(operator.func, "whole", False) for operator in (self.preprocess, self.combine, self.postprocess))

    @property
    def is_linear(self) -> bool:
        """Whether the merge is theta_0 + sum_t c_t tau_t."""
        operators = (self.preprocess.func, self.combine.func, self.postprocess.func)
        return operators == (preprocess.identity, combine.weighted_sum, postprocess.unchanged)

    @property
    def norms_of(self) -> tuple[str, ...]:
        """What the norms are taken of that the coefficients read."""
        values = _filled(coefficients.estimate, self.estimate.keywords)
        return tuple(values[key] for key in ("norm_of", "over") if values[key] != "none")

    def check(self, shape: tuple[int, ...], experts: Sequence[str], context: TensorContext) -> None:
        """Raise the UserErrors of operators on a tensor that its shape and their hyper-parameters alone decide."""
        for stage, operator in (("preprocess", self.preprocess), ("combine", self.combine), ("postprocess", self.postprocess)):
            values = _filled(operator.func, operator.keywords)
            for key, value in values.items():
                if isinstance(value, Mapping) and {*value} != {*experts}:
                    raise UserError(
                        f"{stage}: {operator.func.__name__}: {key}: expected a number for each of {', '.join(experts)}; found"
                        f" {', '.join(value)}"
                    )
                value_at(value, context.tensor, context.blocks)
            if hasattr(operator.func, "check"):
                operator.func.check(shape, context, **values)

    def check_cases(self, names: Iterable[str], blocks: Mapping[str, int]) -> None:
        """Raise a UserError for a case of a varying hyper-parameter that fits none of the merged tensors."""
        for stage, operator in (("preprocess", self.preprocess), ("combine", self.combine), ("postprocess", self.postprocess)):
            for key, value in operator.keywords.items():
                check_cases(value, names, blocks, f"{stage}: {operator.func.__name__}: {key}")

    def merge(self, taus: Any, alpha: Sequence[Any], context: TensorContext) -> Any:
        """Combine and postprocess the processed task vectors (T, ...) of one tensor: (...)."""
        return self.postprocess(self.combine(taus, alpha, context), taus if self.whole else (), context)


def bind(method_spec: Mapping[str, Any], method: str = "method") -> Recipe:
    """Bind `{stage: {operator: {hyper-parameter: value}}}`; unknown names are UserErrors."""
    for stage in method_spec:
        if stage not in STAGES:
            raise UserError(f"method '{method}': no stage {stage!r}; {nearest(stage, STAGES)}")
    parts = {stage: operator_in(method_spec, stage, method) for stage in STAGES}
    rule, values = parts["coefficients"]
    table = {k: values.pop(k) for k in hyper_parameters(coefficients.estimate).keys() & values.keys()}
    if {*coefficients.SCALE} <= table.keys():
        raise UserError(f"method '{method}': coefficients '{rule}': the keys 'mean' and 'total' exclude each other; keep one")
    bound = {stage: functools.partial(STAGES[stage][name], **values) for stage, (name, values) in parts.items()}
    estimate = functools.partial(coefficients.estimate, operator=bound["coefficients"], control=bound["control"], **table)
    if reason := beyond(method_spec) or inconsistent(method_spec):
        raise UserError(f"method '{method}': {reason}")
    measured = requirements(method_spec, method)
    return Recipe(bound["preprocess"], estimate, bound["combine"], bound["postprocess"], measured, bound["space"])


def beyond(method_spec: Mapping[str, Any]) -> str:
    """Return why operators of a method do not work in its space; empty if they do."""
    space, _ = operator_in(method_spec, "space")
    for stage in STAGES if space != DEFAULTS["space"] else ():
        name, _ = operator_in(method_spec, stage)
        operator = STAGES[stage][name]
        kind = getattr(operator, "requires", "thresholds")
        if getattr(operator, "of_weights", False) or kind != "thresholds":
            takes = "the weights of the base" if kind == "thresholds" else f"{kind} statistics"
            return f"the {stage} '{name}' takes {takes}, which the space '{space}' does not have; choose another {stage}"
    return ""


def inconsistent(method_spec: Mapping[str, Any]) -> str:
    """Return which hyper-parameters of an operator exclude each other, with the reason; empty if none do."""
    for stage in STAGES:
        name, values = operator_in(method_spec, stage)
        operator = STAGES[stage][name]
        if hasattr(operator, "excludes") and (reason := operator.excludes(**_filled(operator, values))):
            return str(reason)
    return ""


def requirements(method_spec: Mapping[str, Any], method: str = "method") -> dict[str, dict[str, Any]]:
    """Return what is measured before a merge, by kind: hyper-parameters of the operator that declares it with `@requires`.

    Coefficients by norms of the processed vector need these, `processed`: {preprocess: {operator: hyper-parameters}}.
    `thresholds` and `processed` name the space in which they are measured, where it is another than `full`.
    """
    kinds: dict[str, dict[str, Any]] = {}
    for stage in STAGES:
        name, values = operator_in(method_spec, stage, method)
        operator = STAGES[stage][name]
        if kind := getattr(operator, "requires", None):
            kinds[kind] = _filled(operator, values)
    if operator_in(method_spec, "coefficients", method)[1].get("norm_of") == "processed":
        name, values = operator_in(method_spec, "preprocess", method)
        operator = STAGES["preprocess"][name]
        if (kind := getattr(operator, "requires", "thresholds")) != "thresholds":
            raise UserError(
                f"method '{method}': coefficients: norm_of: processed: the preprocess '{name}' needs {kind} statistics, which"
                " norms are measured without; choose another `norm_of`"
            )
        kinds["processed"] = {"preprocess": {name: _filled(operator, values)}}
    space, values = operator_in(method_spec, "space", method)
    if space != DEFAULTS["space"]:
        place = {"space": {space: _filled(STAGES["space"][space], values)}}
        kinds |= {kind: {**kinds[kind], **place} for kind in ("thresholds", "processed") if kind in kinds}
    return kinds


def _filled(operator: Operator, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return all hyper-parameters of an operator: those given, and defaults."""
    return {key: values.get(key, default) for key, (_, default) in hyper_parameters(operator).items()}


def operator_in(method_spec: Mapping[str, Any], stage: str, method: str = "method") -> tuple[str, dict[str, Any]]:
    """Return (operator, hyper-parameters) of a stage of a method spec, those of the stage's default if it has none, checked."""
    return operator_of(method_spec.get(stage, DEFAULTS[stage]), stage, method)


def operator_of(entry: Any, stage: str, method: str = "method") -> tuple[str, dict[str, Any]]:
    """Return (operator, hyper-parameters) of one stage's entry, `name` or `{name: {hyper-parameter: value}}`, checked."""
    if not isinstance(entry, str) and (not isinstance(entry, Mapping) or len(entry) != 1):
        raise UserError(
            f"method '{method}': {stage} takes one operator, or one operator with its hyper-parameters; found {entry!r}"
        )
    name, values = (entry, {}) if isinstance(entry, str) else next(iter(entry.items()))
    values = values or {}
    if name not in STAGES[stage]:
        raise UserError(f"method '{method}': {stage} has no operator {name!r}; {nearest(name, STAGES[stage])}")
    takes = all_hyper_parameters(STAGES[stage][name])
    for key in values:
        if key not in takes:
            raise UserError(f"method '{method}': {stage} '{name}' takes {sorted(takes)}, not {key!r}; {nearest(key, takes)}")
    return name, dict(values)
