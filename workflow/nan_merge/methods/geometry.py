"""`combine` operators on lengths and angles of whole tensors; weights are `context.base` plus a task vector."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Lt

from nan_merge.core.errors import UserError
from nan_merge.core.patterns import Regex
from nan_merge.methods.combine import weighted_sum
from nan_merge.methods.context import Array, TensorContext, namespace, negligible, of_weights, scale_free, whole
from nan_merge.methods.sparsify import ranks

ROWS_ARE_TOKENS = r"(embed_tokens|embeddings?|shared|wte|wpe)(\.weight)?$"
ROUNDING = 1e-14  # an angle, which is zero in float64


def _shares(alpha: Sequence[float]) -> list[float]:
    """Return the coefficients divided by their sum; equal shares where that is zero."""
    total = math.fsum(alpha)
    return [c / total for c in alpha] if total else [1 / len(alpha)] * len(alpha)


def _inner(tensors: Sequence[Array]) -> np.ndarray:
    """Return the inner products of T tensors: (T, T)."""
    products = np.zeros((len(tensors), len(tensors)))
    for t, one in enumerate(tensors):
        for other in range(t + 1):
            products[t, other] = products[other, t] = float((one * tensors[other]).sum())
    return products


def _cosines(inner: np.ndarray) -> np.ndarray:
    """Return the cosines of the angles between tensors from their inner products, 0 where one is zero: (T, T)."""
    lengths = np.sqrt(np.diag(inner))
    products = np.outer(lengths, lengths)
    return np.clip(inner / np.where(products > 0, products, np.inf), -1, 1)


@of_weights
@scale_free
@whole
def slerp(
    taus: Sequence[Array],
    alpha: Sequence[float],
    context: TensorContext,
    *,
    collinear: Annotated[float, Gt(0), Lt(1), "|cosine| above which weights are interpolated along a line"] = 0.9995,
) -> Array:
    """Interpolate the weights of two experts along the arc between them (SLERP, Shoemake, 1985).

        sin((1 - t) Omega) / sin Omega W_1 + sin(t Omega) / sin Omega W_2,   cos Omega = <W_1, W_2> / (|W_1| |W_2|)

    with t = c_2 / (c_1 + c_2).
    DIFFERS: a zero tensor has no angle and is interpolated along the line; mergekit uses a right angle.

    Raises UserError unless there are two experts.
    """
    if len(taus) != 2:
        raise UserError(f"slerp: {len(taus)} experts; expected exactly two; choose two experts or another method (`karcher`)")
    shares, weights = _shares(alpha), [context.base + tau for tau in taus]
    inner = _inner(weights)
    cosine = float(_cosines(inner)[0, 1])
    if abs(cosine) > collinear or not np.diag(inner).all():
        return weighted_sum(taus, shares, context)
    angle = math.acos(cosine)
    factors = [math.sin(share * angle) / math.sin(angle) for share in shares]
    return weighted_sum(taus, factors, context) + (sum(factors) - 1) * context.base


@of_weights
@scale_free
@whole
def karcher(
    taus: Sequence[Array],
    alpha: Sequence[float],
    context: TensorContext,
    *,
    iterations: Annotated[int, Ge(0), "largest number of iterations"] = 10,
    tolerance: Annotated[float, Gt(0), Lt(1), "angles and steps below it count as zero"] = 1e-5,
) -> Array:
    """Average the directions of the weights on the sphere and multiply by their mean length (Karcher mean).

    As in mergekit (arXiv 2603.04972), with weights c_t; computed from inner products, since the mean is a sum of k_t W_t.
    DIFFERS: a tensor counts unless it is exactly zero; mergekit drops those shorter than the tolerance. Where weights
    cancel and leave no mean direction, the first one's is used.
    """
    if len(taus) == 1 or not any(bool((tau != 0).any()) for tau in taus):
        return taus[0]
    inner, shares = _inner([context.base + tau for tau in taus]), np.array(_shares(alpha))
    length = shares @ np.sqrt(np.diag(inner))
    factors = (length * _mean_direction(inner, shares, iterations, tolerance)).tolist()
    return weighted_sum(taus, factors, context) + (sum(factors) - 1) * context.base


def _mean_direction(inner: np.ndarray, shares: np.ndarray, iterations: int, tolerance: float) -> np.ndarray:
    """Return k (T,) with sum_t k_t W_t the Frechet mean u of the directions of T tensors W_t, from their inner products."""
    lengths = np.sqrt(np.diag(inner))
    some = lengths > 0
    if not some.any():
        return np.zeros(len(inner))
    inverse = np.where(some, 1 / np.where(some, lengths, 1), 0)
    shares = shares / (shares[some].sum() or 1.0)

    def norm(k: np.ndarray) -> float:
        return math.sqrt(max(k @ inner @ k, 0.0))

    k = shares * inverse
    if norm(k) < tolerance:
        k = np.eye(len(inner))[np.argmax(some)] * inverse
    for _ in range(iterations):
        k = k / norm(k)
        cosines = np.clip(inner @ k * inverse, -1, 1)
        angles = np.arccos(cosines)
        apart = some & (np.sin(angles) >= tolerance)
        pull = np.where(apart, shares * angles / np.where(apart, np.sin(angles), 1), 0)
        step = pull * inverse - (pull @ cosines) * k  # sum_t c_t log_u(W_t / |W_t|), zero at the mean
        size = norm(step)
        if size < tolerance:
            break
        k = math.cos(size) * k + math.sin(size) / size * step
    return k / norm(k)


@scale_free
@whole
def model_stock(taus: Sequence[Array], alpha: Sequence[float], context: TensorContext) -> Array:
    """Move from the base towards the mean of the experts in proportion to their agreement (Model Stock, arXiv 2403.19522).

        t sum_s c_s tau_s / sum_s c_s,   t = T cos / (1 + (T - 1) cos)

    with the cosine between two task vectors.
    ASSUME: for more than two experts the cosine is the mean over all pairs (as in mergekit), for one expert it is 1.
    DIFFERS: a negative cosine counts as zero, so that t stays in [0, 1]; a pair with a zero task vector has cosine 0.
    FusionBench averages the angles of the pairs.
    """
    pairs = _cosines(_inner(taus))[np.triu_indices(len(taus), 1)]
    cosine = max(0.0, float(pairs.mean())) if len(pairs) else 1.0
    t = len(taus) * cosine / (1 + (len(taus) - 1) * cosine)
    return t * weighted_sum(taus, _shares(alpha), context)


@of_weights
@whole
def widen(
    taus: Sequence[Array],
    alpha: Sequence[float],
    context: TensorContext,
    *,
    t: Annotated[float, Ge(0), "factor of its expert's mean above which a column is important"] = 1.0,
    s: Annotated[float, "score of important columns"] = 1.0,
    embeddings: Annotated[Regex, "regex of the matrices whose rows, the tokens, are the columns"] = ROWS_ARE_TOKENS,
) -> Array:
    """Sum the task vectors weighted by scores of their columns (WIDEN, arXiv 2408.03092).

        sum_t c_t S_t tau_t,    S_t the mean of two scores of every column

    The scores are of the change of the column's length and of its direction, each as a rank among the columns of the
    expert. Entries of vectors and scalars are scored by |tau_t|.
    ASSUME: a tensor with more axes is the matrix of its first axis by all others.
    DIFFERS: a zero column has direction zero; the authors' code divides 0 by 0.
    """
    if taus[0].ndim < 2:
        scores = _scores([abs(tau) for tau in taus], t, s)
    else:
        turned = taus[0].ndim == 2 and (context.transposed or (embeddings and re.search(embeddings, context.tensor)))
        changes = [_changes(context.base, tau, 1 if turned else 0) for tau in taus]
        kinds = [[_ranked(each) for each in kind] for kind in zip(*changes, strict=True)]
        lengths, directions = (_scores(kind, t, s, math.prod(kind[0].shape)) for kind in kinds)
        scores = [0.5 * (length + direction) for length, direction in zip(lengths, directions, strict=True)]
    return weighted_sum([score * tau for score, tau in zip(scores, taus, strict=True)], alpha, context)


def _changes(base: Array, tau: Array, axis: int) -> tuple[Array, Array]:
    """Return the change of length and of direction (1 - cos) of every column, along `axis`."""
    (before, old), (after, new) = _columns(base, axis), _columns(base + tau, axis)
    turn = 0.5 * namespace(tau).sum((new - old) ** 2, axis=axis, keepdims=True)
    return abs(after - before), turn * (turn > negligible(turn, ROUNDING) ** 2)


def _columns(weights: Array, axis: int) -> tuple[Array, Array]:
    """Return the lengths of the columns, and the columns divided by them."""
    xp = namespace(weights)
    lengths = xp.sqrt(xp.sum(weights**2, axis=axis, keepdims=True))
    return lengths, weights / (lengths + (lengths == 0))


def _ranked(values: Array) -> Array:
    """Return the ranks of all entries, in the type of the values."""
    return namespace(values).astype(ranks(values.reshape(-1)), values.dtype).reshape(values.shape)


def _scores(significance: Sequence[Array], t: float, s: float, unit: float = 1.0) -> list[Array]:
    """Return the softmax of significance / unit over experts, and `s` where it exceeds t times the mean of its expert."""
    xp = namespace(significance[0])
    stacked = xp.stack(list(significance)) / unit
    powers = xp.exp(stacked - xp.max(stacked, axis=0))
    softmax = powers / xp.sum(powers, axis=0)
    return [xp.where(each > t * each.mean(), s, soft) for each, soft in zip(significance, softmax, strict=True)]


slerp.experts = 2  # type: ignore[attr-defined]
COMBINE = {f.__name__: f for f in (slerp, karcher, model_stock, widen)}
