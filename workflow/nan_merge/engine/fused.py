"""Numba kernels that replace operators on the CPU: same arguments, same bytes; they overwrite their inputs.

Operators without a kernel, and all operators on other devices, run as they are.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nan_merge.core import kernels
from nan_merge.engine.reader import BFLOAT16, for_kernels
from nan_merge.methods import combine, preprocess
from nan_merge.methods.context import DRAWS, TensorContext
from nan_merge.methods.recipe import Recipe


def trim(tau: np.ndarray, context: TensorContext, **measured: Any) -> np.ndarray:
    """See `preprocess.trim`."""
    kernels.trim(tau, tau.dtype.type(context.threshold))
    return tau


def drop(tau: np.ndarray, context: TensorContext, *, rate: float = 0.9, seed: int = 0) -> np.ndarray:
    """See `preprocess.drop`."""
    rate, key = context.number(rate), np.uint64(context.key(seed) & (1 << 64) - 1)
    kernels.drop(tau, np.uint64(context.start), key, np.uint64(math.ceil(rate * DRAWS)), tau.dtype.type(1 - rate))
    return tau


def weighted_sum(taus: np.ndarray, alpha: Sequence[float], context: TensorContext) -> np.ndarray:
    """See `combine.weighted_sum`."""
    kernels.weighted_sum(taus, np.asarray(alpha, taus.dtype))
    return taus[0]


def linear(stored: Sequence[np.ndarray], alpha: Sequence[float], out: np.ndarray) -> bool:
    """Write theta_0 + sum_t c_t tau_t of one piece into `out`, from `stored` (base and experts) in one pass.

    Return whether it did: only where all are of one type that has a kernel, few enough for one, and all numbers are finite.
    """
    if len(stored) > kernels.MODELS:
        return False
    if (blocks := for_kernels([*stored, out])) is None:
        return False
    *models, target = blocks
    return kernels.linear(tuple(models), np.asarray(alpha, np.float32 if out.dtype == BFLOAT16 else np.float64), target)


def _disjoint(taus: np.ndarray, alpha: Sequence[float], elect: str, weights: Sequence[float] | None) -> np.ndarray:
    ones = np.ones(len(taus), taus.dtype)
    election = np.asarray(alpha, taus.dtype) if elect == "weighted" else ones
    shares = ones if weights is None else np.abs(np.asarray(weights, taus.dtype))
    kernels.disjoint(taus, np.asarray(alpha, taus.dtype), election, shares, weights is not None)
    return taus[0]


def disjoint_sum(taus: np.ndarray, alpha: Sequence[float], context: TensorContext, *, elect: str = "weighted") -> np.ndarray:
    """See `combine.disjoint_sum`."""
    return _disjoint(taus, alpha, elect, None)


def disjoint_mean(
    taus: np.ndarray, alpha: Sequence[float], context: TensorContext, *, elect: str = "weighted", divide_by: str = "count"
) -> np.ndarray:
    """See `combine.disjoint_mean`."""
    return _disjoint(taus, alpha, elect, alpha if divide_by == "coefficients" else [1.0] * len(taus))


FUSED_KERNELS: dict[Callable[..., Any], Callable[..., Any]] = {
    preprocess.trim: trim,
    preprocess.drop: drop,
    combine.weighted_sum: weighted_sum,
    combine.disjoint_sum: disjoint_sum,
    combine.disjoint_mean: disjoint_mean,
}


def fused(recipe: Recipe) -> Recipe:
    """Return a recipe with kernels for the operators that have one; kernels overwrite their inputs.

    A recipe that needs whole tensors is returned as it is.
    """
    if recipe.whole:
        return recipe
    preprocess, combine = (
        functools.partial(FUSED_KERNELS.get(operator.func, operator.func), **operator.keywords)
        for operator in (recipe.preprocess, recipe.combine)
    )
    return dataclasses.replace(recipe, preprocess=preprocess, combine=combine)
