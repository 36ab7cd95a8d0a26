"""Words of the slot `coefficients`: T norms in, T coefficients out, by one law; and the table of their values.

    c_t = lambda kappa ||v_t||^-p        v the weights or the task vector, over the model, a layer or a tensor

Uniform coefficients are p = 0, NAN is p = 1, the theory behind NAN p = 2, MetaGPT p = -2; kappa is the normaliser's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

import numpy as np
from annotated_types import Ge, Lt

from nan_merge.core.blocks import LAYER_RE
from nan_merge.core.errors import UserError

MODEL: Final = "model"

Exponent = Annotated[float, "p in |v|^-p; 0 is uniform, 1 is NAN, 2 its theory, -2 MetaGPT"]
Normaliser = Annotated[Literal["sum", "softmax", "length", "shrink"], "shares, by sum or softmax; or one length, mean or least"]
ZeroNorm = Annotated[Literal["error", "drop"], "what to do with an expert that equals the base"]
NormOf = Annotated[Literal["weights", "task_vector", "calibration"], "whose Frobenius norm"]
Scope = Annotated[Literal["model", "layer", "tensor"], "over what the norm is taken"]


def norm_law(
    norms: np.ndarray, *, exponent: float = 1.0, normaliser: Normaliser = "sum", zero_norm: ZeroNorm = "error"
) -> np.ndarray:
    """Return kappa ||v_t||^-exponent for T experts: (T,) -> (T,).

    `normaliser` sets kappa: with `sum` (Eq. 10 of NAN, arXiv 2505.16148, as reconstructed) they are shares that sum to
    one, as with `softmax` of the inverse norms (its words); with `length` kappa is the mean of ||v||^p, which brings all
    vectors to the mean length; with `shrink` the least, which stretches none (as DisTaC advises, arXiv 2508.01148).
    Where every norm is zero all are alike. For p > 0 a single zero norm is a UserError, or with `zero_norm: drop` that
    expert gets nothing and the rest is computed without it.
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
    """Scale shares to a mean coefficient (a host's lambda) or to a sum (1 keeps a weighted average of the models)."""
    return shares * (mean * len(shares) if mean is not None else 1.0 if total is None else total)


def constant(norms: np.ndarray, *, value: Annotated[float, "the coefficient lambda"]) -> np.ndarray:
    """Give every expert the coefficient `value` (lambda of task arithmetic, arXiv 2212.04089)."""
    return np.full(len(norms), float(value))


def uniform(norms: np.ndarray, *, total: Annotated[float, "sum of the coefficients"] = 1.0) -> np.ndarray:
    """Give every expert total / T (weight averaging, arXiv 2203.05482)."""
    return _scaled(norm_law(norms, exponent=0.0), None, total)


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
    host's lambda) and `total` the sum (1: the literal weighted average, also the default). With `length` and `shrink`
    it is `scale`, the coefficient of an expert that has the length already.
    """
    if normaliser in ("length", "shrink") and (mean is not None or total is not None):
        raise UserError(f"nan: normaliser '{normaliser}' takes `scale`; found `mean` or `total`, which need `sum` or `softmax`")
    return scale * _scaled(norm_law(norms, exponent=exponent, normaliser=normaliser, zero_norm=zero_norm), mean, total)


def metagpt(norms: np.ndarray) -> np.ndarray:
    """Weigh every expert by its squared norm, summing to one (MetaGPT, arXiv 2406.11385): the law with exponent -2."""
    return norm_law(norms, exponent=-2.0)


def given(
    norms: np.ndarray, *, values: Annotated[float | Sequence[float], "one an expert, in the order of their names; or one for all"]
) -> np.ndarray:
    """Give every expert the coefficient written down for it: one an expert in the order of their names, or one for all.

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
WITHOUT_NORMS = frozenset({"constant", "uniform", "given"})  # words that never look at a norm: nothing needs measuring


def kept(row: np.ndarray) -> np.ndarray:
    """Leave the coefficients of one row as they are."""
    return row


def uniform_matched(row: np.ndarray) -> np.ndarray:
    """Replace the coefficients of one row by their mean: the control for the global scale."""
    return np.full(len(row), row.mean())


def permuted(row: np.ndarray, *, seed: Annotated[int, Ge(0), Lt(1000), "which of the shuffles"] = 0) -> np.ndarray:
    """Shuffle the coefficients of one row over the experts, every row alike: the control for who gets which.

    `seed` counts, in one stream of random permutations, those that move something and were not there before. So the
    first T! - 1 seeds give every shuffle of T experts once; further seeds repeat them.
    """
    rng, seen = np.random.default_rng(0), {tuple(range(len(row)))}
    order = tuple(range(len(row)))
    shuffles = math.factorial(len(row)) - 1
    while shuffles and len(seen) < seed % shuffles + 2:
        order = tuple(rng.permutation(len(row)).tolist())
        seen.add(order)
    return row[list(order)]


CONTROL: dict[str, Callable[..., np.ndarray]] = {f.__name__: f for f in (kept, uniform_matched, permuted)}


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
        """Return the table as it stands in its JSON file."""
        return {"experts": self.experts, "scope": self.scope, "rows": dict(self.rows), "norms": dict(self.norms)}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> CoefficientTable:
        """Read the table from its JSON record."""
        return cls(tuple(record["experts"]), record["scope"], record["rows"], record["norms"])


def row_of(tensor: str, scope: str) -> str:
    """Return the row of the table that serves a tensor: `model`, its layer's name, or its own name."""
    if scope == "tensor":
        return tensor
    if scope == "layer":
        block = LAYER_RE.match(tensor)
        return block[1] + block[2] if block else "outside the layers"
    return MODEL


def estimate(
    measures: Mapping[str, Any],
    operator: Callable[..., np.ndarray],
    control: Callable[..., np.ndarray],
    *,
    norm_of: NormOf = "task_vector",
    scope: Scope = MODEL,
    only: Annotated[str, "regex of the tensors whose norms count; empty: all"] = "",
) -> CoefficientTable:
    """Apply a bound coefficient word and a control to the norms that `measure` found.

    `norm_of` is `weights`, `task_vector` or, where that was collected, `calibration`; squares are summed over the tensors
    of a row in float64 (with fsum, so in any order) before the root is taken. Where `only` leaves a row no tensor, its
    norms are zero: uniform coefficients.
    """
    if only and not any(re.search(only, tensor) for tensor in measures["tensors"]):
        raise UserError(f"coefficients: only: {only!r} is found in none of the {len(measures['tensors'])} merged tensors' names")
    squares: dict[str, list[list[float]]] = {}
    for tensor, found in measures["tensors"].items():
        if norm_of not in found:
            raise UserError(f"coefficients: norm_of: {norm_of}: was not measured, only {sorted(found)}; name `calibration:` too")
        counts = bool(re.search(only, tensor))
        squares.setdefault(row_of(tensor, scope), []).append([counts * square for square in found[norm_of]])
    norms = {row: np.sqrt([math.fsum(column) for column in zip(*parts, strict=True)]) for row, parts in squares.items()}
    rows = {row: control(operator(norms[row])).tolist() for row in sorted(norms)}
    return CoefficientTable(tuple(measures["experts"]), scope, rows, {r: norms[r].tolist() for r in sorted(norms)})
