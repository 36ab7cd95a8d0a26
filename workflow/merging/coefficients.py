"""Words of the slot `coefficients`: T norms in, T coefficients out, by one law; and the table of their values.

    c_t = lambda kappa ||v_t||^-p        v the weights or the task vector, over the model, a layer or a tensor

Uniform coefficients are p = 0, NAN is p = 1, the theory behind NAN p = 2, MetaGPT p = -2.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from merging.results import UserError

MODEL = "model"
LAYER = re.compile(r"^(.*?\b(?:layers?|blocks?|resblocks|h)\.\d+)\.")


def norm_law(norms: np.ndarray, *, exponent: float = 1.0, normaliser: str = "sum", zero_norm: str = "error") -> np.ndarray:
    """Return the shares alpha_t of T experts: proportional to ||v_t||^-exponent, summing to one: (T,) -> (T,).

    `normaliser` is `sum` (Eq. 10 of NAN, arXiv 2505.16148, as reconstructed) or `softmax` of the inverse norms (its
    words). Where every norm is zero the shares are uniform. A single zero norm is a UserError, or with
    `zero_norm: drop` that expert gets nothing and the rest share the whole.
    """
    norms = np.asarray(norms, np.float64)
    if exponent == 0 or not norms.any():
        return np.full(len(norms), 1 / len(norms))
    if (norms == 0).any() and zero_norm == "error":
        raise UserError(
            f"expert number {int(np.argmin(norms)) + 1} of {len(norms)} has norm zero (it equals the base), which has no"
            " inverse; leave it out of the suite or set `zero_norm: drop`"
        )
    inverse = np.zeros_like(norms)
    np.power(norms, -exponent, out=inverse, where=norms > 0)
    if normaliser == "softmax":
        inverse = np.where(norms > 0, np.exp(inverse - inverse.max()), 0.0)
    return inverse / inverse.sum()


def _scaled(shares: np.ndarray, mean: float | None, total: float | None) -> np.ndarray:
    """Scale shares to a mean coefficient (a host's lambda) or to a sum (1 keeps a weighted average of the models)."""
    return shares * (mean * len(shares) if mean is not None else 1.0 if total is None else total)


def constant(norms: np.ndarray, *, value: float) -> np.ndarray:
    """Give every expert the coefficient `value` (lambda of task arithmetic, arXiv 2212.04089)."""
    return np.full(len(norms), float(value))


def uniform(norms: np.ndarray, *, total: float = 1.0) -> np.ndarray:
    """Give every expert total / T (weight averaging, arXiv 2203.05482)."""
    return _scaled(norm_law(norms, exponent=0.0), None, total)


def nan(
    norms: np.ndarray,
    *,
    exponent: float = 1.0,
    normaliser: str = "sum",
    mean: float | None = None,
    total: float | None = None,
    zero_norm: str = "error",
) -> np.ndarray:
    """Weigh every expert by its inverse norm (NAN, arXiv 2505.16148, Eq. 10).

    ASSUME: the paper names a global scaling factor without its value; `mean` sets the mean coefficient (to the
    host's lambda) and `total` the sum (1: the literal weighted average, also the default).
    """
    return _scaled(norm_law(norms, exponent=exponent, normaliser=normaliser, zero_norm=zero_norm), mean, total)


def given(norms: np.ndarray, *, values: float | Sequence[float]) -> np.ndarray:
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


COEFFICIENTS: dict[str, Callable[..., np.ndarray]] = {f.__name__: f for f in (constant, uniform, nan, given)}
WITHOUT_NORMS = frozenset({"constant", "uniform", "given"})  # words that never look at a norm: nothing needs measuring


def kept(row: np.ndarray) -> np.ndarray:
    """Leave the coefficients of one row as they are."""
    return row


def uniform_matched(row: np.ndarray) -> np.ndarray:
    """Replace the coefficients of one row by their mean: the control for the global scale."""
    return np.full(len(row), row.mean())


def permuted(row: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Shuffle the coefficients of one row over the experts, every row alike: the control for who gets which.

    A permutation that leaves everything in place is drawn again (for two or more experts).
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(row))
    while len(row) > 1 and (order == np.arange(len(row))).all():
        order = rng.permutation(len(row))
    return row[order]


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
        layer = LAYER.match(tensor)
        return layer.group(1) if layer else "outside the layers"
    return MODEL


def estimate(
    measures: Mapping[str, Any],
    word: Callable[..., np.ndarray],
    control: Callable[..., np.ndarray],
    *,
    norm_of: str = "task_vector",
    scope: str = MODEL,
) -> CoefficientTable:
    """Apply a bound coefficient word and a control to the norms that `measure` found.

    `norm_of` is `weights` or `task_vector`; squares are summed over the tensors of a row in float64 (with fsum, so in
    any order) before the root is taken.
    """
    squares: dict[str, list[list[float]]] = {}
    for tensor, found in measures["tensors"].items():
        squares.setdefault(row_of(tensor, scope), []).append(found[norm_of])
    norms = {row: np.sqrt([math.fsum(column) for column in zip(*parts, strict=True)]) for row, parts in squares.items()}
    rows = {row: control(word(norms[row])).tolist() for row in sorted(norms)}
    return CoefficientTable(tuple(measures["experts"]), scope, rows, {r: norms[r].tolist() for r in sorted(norms)})
