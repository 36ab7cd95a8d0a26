"""Coefficient rules, controls of them, and the table of coefficients: T norms (T,) in, T coefficients (T,) out.

    c_t = lambda kappa ||v_t||^-p        v: the weights, the task vector or the calibration, over the model, a layer or a tensor

Uniform coefficients have p = 0, NAN p = 1, the theory behind NAN p = 2, MetaGPT p = -2; kappa depends on the normaliser.
"""

from __future__ import annotations

import functools
import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

import numpy as np
from annotated_types import Ge, Lt

from nan_merge.core.blocks import LAYER_RE
from nan_merge.core.errors import UserError

MODEL: Final = "model"
Rule = Callable[..., np.ndarray]

Exponent = Annotated[float, "p in |v|^-p; 0 is uniform, 1 is NAN, 2 its theory, -2 MetaGPT"]
Normaliser = Annotated[Literal["sum", "softmax", "length", "shrink"], "shares, by sum or softmax; or one length, mean or least"]
ZeroNorm = Annotated[Literal["error", "drop"], "what to do with an expert that equals the base"]
NormOf = Annotated[Literal["weights", "task_vector", "calibration"], "whose Frobenius norm"]
Scope = Annotated[Literal["model", "layer", "tensor"], "over what the norm is taken"]


def norm_law(
    norms: np.ndarray, *, exponent: float = 1.0, normaliser: Normaliser = "sum", zero_norm: ZeroNorm = "error"
) -> np.ndarray:
    """Return kappa ||v_t||^-exponent for T experts: (T,) -> (T,).

    `normaliser` sets kappa: `sum` gives shares that sum to one (Eq. 10 of NAN, arXiv 2505.16148, as reconstructed);
    `softmax` gives the softmax of the inverse norms (the paper's text); `length` is the mean of ||v||^p, which brings all
    vectors to the mean length; `shrink` is the least ||v||^p, which stretches none (as DisTaC advises, arXiv 2508.01148).
    If every norm is zero, all experts get the same. For p > 0 a single zero norm is a UserError; with `zero_norm: drop`
    that expert gets zero and the others are computed without it.
    """
    norms = np.asarray(norms, np.float64)
    if exponent == 0 or not norms.any():
        return np.full(len(norms), 1.0 if normaliser in ("length", "shrink") else 1 / len(norms))
    if exponent > 0 and (norms == 0).any() and zero_norm == "error":
        raise UserError(
            f"expert number {int(np.argmin(norms)) + 1} of {len(norms)} has norm zero (it equals the base), which has no"
            " inverse; leave it out of the suite or set `zero_norm: drop`"
        )
    inverse = np.zeros_like(norms)
    np.power(norms, -exponent, out=inverse, where=norms > 0)
    some = inverse[norms > 0]
    if normaliser == "softmax":
        inverse = np.where(norms > 0, np.exp(inverse - some.max()), 0.0)
    kappa = {"length": (1 / some).mean(), "shrink": (1 / some).min()}
    return inverse * kappa[normaliser] if normaliser in kappa else inverse / inverse.sum()


def _scaled(shares: np.ndarray, mean: float | None, total: float | None) -> np.ndarray:
    """Scale shares to a mean coefficient (a host's lambda) or to a sum (default 1: a weighted average of the models)."""
    return shares * (mean * len(shares) if mean is not None else 1.0 if total is None else total)


def declares_mean(mean: Callable[..., float | None]) -> Callable[[Rule], Rule]:
    """Declare the mean coefficient of a rule, as a function of T and of the rule's hyper-parameters.

    It returns None where the mean depends on the norms.
    """

    def mark(rule: Rule) -> Rule:
        rule.mean_coefficient = mean  # type: ignore[attr-defined]
        return rule

    return mark


def mean_coefficient(rule: Rule, experts: int) -> float | None:
    """Return the mean coefficient that a bound rule gives by construction, or None where it depends on the norms."""
    bound = functools.partial(rule)
    declared = getattr(bound.func, "mean_coefficient", None)
    return declared(experts, **bound.keywords) if declared else None


@declares_mean(lambda experts, value: float(value))
def constant(norms: np.ndarray, *, value: Annotated[float, "the coefficient lambda"]) -> np.ndarray:
    """Give every expert the coefficient `value` (lambda of task arithmetic, arXiv 2212.04089)."""
    return np.full(len(norms), float(value))


@declares_mean(lambda experts, total=1.0: 1 / experts * total)
def uniform(norms: np.ndarray, *, total: Annotated[float, "sum of the coefficients"] = 1.0) -> np.ndarray:
    """Give every expert total / T (weight averaging, arXiv 2203.05482)."""
    return _scaled(norm_law(norms, exponent=0.0), None, total)


def _mean_of_nan(experts: int, *, mean: float | None = None, total: float | None = None, **others: Any) -> float | None:
    if others.get("normaliser") in ("length", "shrink"):
        return None
    return others.get("scale", 1.0) * (mean if mean is not None else 1 / experts * (1.0 if total is None else total))


@declares_mean(_mean_of_nan)
def nan(
    norms: np.ndarray,
    *,
    exponent: Exponent = 1.0,
    normaliser: Normaliser = "sum",
    mean: Annotated[float | None, "mean coefficient, a host's lambda; excludes total"] = None,
    total: Annotated[float | None, "sum of the coefficients; excludes mean"] = None,
    scale: Annotated[float, "factor on all; lambda of `length` and `shrink`"] = 1.0,
    zero_norm: ZeroNorm = "error",
) -> np.ndarray:
    """Weigh every expert by its inverse norm (NAN, arXiv 2505.16148, Eq. 10).

    ASSUME: the paper names a global scaling factor without its value; `mean` sets the mean coefficient (to the
    host's lambda) and `total` the sum (default 1, the literal weighted average). With `length` and `shrink` the factor is
    `scale`, the coefficient of an expert that already has the target length.
    """
    if normaliser in ("length", "shrink") and (mean is not None or total is not None):
        raise UserError(f"nan: normaliser '{normaliser}' takes `scale`; found `mean` or `total`, which need `sum` or `softmax`")
    return scale * _scaled(norm_law(norms, exponent=exponent, normaliser=normaliser, zero_norm=zero_norm), mean, total)


@declares_mean(lambda experts: 1 / experts)
def metagpt(norms: np.ndarray) -> np.ndarray:
    """Weigh every expert by its squared norm, summing to one (MetaGPT, arXiv 2406.11385): the law with exponent -2."""
    return norm_law(norms, exponent=-2.0)


def given(
    norms: np.ndarray, *, values: Annotated[float | Sequence[float], "one an expert, in the order of their names; or one for all"]
) -> np.ndarray:
    """Give every expert its listed coefficient: one per expert in the order of their names, or one for all.

    Raises UserError for a list of another length than there are experts.
    """
    numbers = np.asarray(values, np.float64)
    if numbers.ndim and numbers.shape != np.shape(norms):
        raise UserError(
            f"coefficients: given: values: {numbers.size} numbers for {len(norms)} experts; expected one an expert, in the"
            " order of their names"
        )
    return np.full(len(norms), numbers)


COEFFICIENTS: dict[str, Callable[..., np.ndarray]] = {f.__name__: f for f in (constant, uniform, nan, metagpt, given)}
nan.exclusive = ["mean", "total"]  # type: ignore[attr-defined]
WITHOUT_NORMS = frozenset({"constant", "uniform", "given"})  # rules that need no norms, so that none are measured


def kept(row: np.ndarray, mean: float | None = None) -> np.ndarray:
    """Leave the coefficients of one row as they are."""
    return row


def uniform_matched(row: np.ndarray, mean: float | None = None) -> np.ndarray:
    """Replace the coefficients of one row by their mean: the control for the global scale.

    `mean` is the mean coefficient that the rule declares (see `mean_coefficient`): the control of a rule with a known
    scale has exactly that scale, on every processor. Where it depends on the norms (None: `length`, `shrink`, a list of
    values) it is the mean of the row, exact up to one rounding.
    """
    return np.full(len(row), statistics.mean(row.tolist()) if mean is None else mean)


def permuted(
    row: np.ndarray, mean: float | None = None, *, seed: Annotated[int, Ge(0), Lt(1000), "number of the shuffle"] = 0
) -> np.ndarray:
    """Shuffle the coefficients of one row over the experts, every row alike: the control for the assignment to experts.

    `seed` counts the permutations of one random stream, without the identity and without repetitions. So the first
    T! - 1 seeds give every shuffle of T experts once; further seeds repeat them.
    """
    rng, seen = np.random.default_rng(0), {tuple(range(len(row)))}
    order = tuple(range(len(row)))
    shuffles = math.factorial(len(row)) - 1
    while shuffles and len(seen) < seed % shuffles + 2:
        order = tuple(rng.permutation(len(row)).tolist())
        seen.add(order)
    return row[list(order)]


CONTROL: dict[str, Rule] = {f.__name__: f for f in (kept, uniform_matched, permuted)}


@dataclass(frozen=True)
class CoefficientTable:
    """Coefficients of T experts by row; a row is the whole model, a layer or a tensor."""

    experts: tuple[str, ...]
    scope: str
    rows: Mapping[str, Sequence[float]]
    norms: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def at(self, tensor: str) -> list[float]:
        """Return the T coefficients of one tensor."""
        return list(self.rows[row_of(tensor, self.scope)])

    def record(self) -> dict[str, Any]:
        """Return the table as a JSON record."""
        return {"experts": self.experts, "scope": self.scope, "rows": dict(self.rows), "norms": dict(self.norms)}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> CoefficientTable:
        """Read the table from its JSON record."""
        return cls(tuple(record["experts"]), record["scope"], record["rows"], record["norms"])


def row_of(tensor: str, scope: str) -> str:
    """Return the row of the table that holds a tensor's coefficients: `model`, its layer's name, or its own name."""
    if scope == "tensor":
        return tensor
    if scope == "layer":
        block = LAYER_RE.match(tensor)
        return block[1] + block[2] if block else "outside the layers"
    return MODEL


def estimate(
    measures: Mapping[str, Any],
    operator: Rule,
    control: Rule,
    *,
    norm_of: NormOf = "task_vector",
    scope: Scope = MODEL,
    only: Annotated[str, "regex of the tensors whose norms count; empty: all"] = "",
) -> CoefficientTable:
    """Return the coefficients of a bound rule and a control for measured norms.

    `measures` is the result of `measure.norms`, with `calibration` where that was collected. Squares are summed over the
    tensors of a row in float64 (with fsum, so in any order); a row without any tensor that `only` matches has zero norms,
    hence uniform coefficients.

    Raises UserError if `only` matches no tensor, or `norm_of` was not measured.
    """
    if only and not any(re.search(only, tensor) for tensor in measures["tensors"]):
        raise UserError(f"coefficients: only: {only!r} is found in none of the {len(measures['tensors'])} merged tensors' names")
    squares: dict[str, list[list[float]]] = {}
    for tensor, sums in measures["tensors"].items():
        if norm_of not in sums:
            raise UserError(f"coefficients: norm_of: {norm_of}: was not measured, only {sorted(sums)}; name `calibration:` too")
        counts = bool(re.search(only, tensor))
        squares.setdefault(row_of(tensor, scope), []).append([counts * square for square in sums[norm_of]])
    norms = {row: np.sqrt([math.fsum(column) for column in zip(*parts, strict=True)]) for row, parts in sorted(squares.items())}
    experts = tuple(measures["experts"])
    mean = mean_coefficient(operator, len(experts))
    rows = {row: control(operator(lengths), mean).tolist() for row, lengths in norms.items()}
    return CoefficientTable(experts, scope, rows, {row: lengths.tolist() for row, lengths in norms.items()})
