"""`combine` operators that reduce the interference between task vectors: WUDI, OptMerge, SWUDI with ASWUDI, and DOGE-TA.

Of one matrix, with tau, tau_t (out, in), the loss of WUDI and its gradient over two are

    sum_t c_t |(tau - tau_t) tau_t^T|^2 / |tau_t|^2        tau C - D
    C = sum_t c_t tau_t^T tau_t / |tau_t|^2 (in, in)       D = sum_t c_t tau_t tau_t^T tau_t / |tau_t|^2 (out, in)

so c_t weighs the loss of an expert, not its task vector. Its exact minimum, D C^+, is `actmat` with `normalise: trace`; the first
three start at the sum of the task vectors and stop before it. The factors 1 / |tau_t|^2 are NAN with exponent 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt, Le
from array_api_compat import is_numpy_array

from nan_merge.core.parallel import stop_if_interrupted
from nan_merge.methods.context import COMPUTED, Array, TensorContext, length, namespace, negligible, scale_free
from nan_merge.methods.decompose import triplets
from nan_merge.methods.matrices import mean, of_matrices, or_one

BETA_1, BETA_2, STABLE = 0.9, 0.999, 1e-8  # of Adam
BLOCK = 2**15  # entries that Adam moves together on the host: several arrays of them fit its cache
SMALLEST = 1e-8  # eigenvalue of C, whose trace is sum_t c_t, below which a direction counts as not used by any expert

Steps = Annotated[int, Ge(0), "steps of Adam"]
LearningRate = Annotated[float, Gt(0), "of Adam"]


def _normal_equation(
    taus: Sequence[Array], goals: Iterable[Array], rows: Iterable[Array], alpha: Sequence[float]
) -> tuple[Array, Array]:
    """Return C (in, in) and D (out, in) of the loss sum_t c_t |(tau - goal_t) rows_t^T|^2 / |tau_t|^2."""
    target = 0 * taus[0]
    curvature: Array = 0.0
    for c, tau, goal, row in zip(alpha, taus, goals, rows, strict=True):
        stop_if_interrupted()
        weight = c / or_one((tau * tau).sum()) * (row.T @ row)
        target = target + goal @ weight
        curvature = curvature + weight
    return curvature, target


def _minimised(start: Array, curvature: Array, target: Array, steps: int, learning_rate: float) -> Array:
    """Return what Adam makes of `start` (out, in) with the gradient 2 (tau C - D)."""

    def gradient(tau: Array) -> Array:
        found = tau @ curvature
        found -= target
        found *= 2
        return found

    return _adam(start, gradient, steps, learning_rate)


def _adam(start: Array, gradient: Callable[[Array], Array], steps: int, learning_rate: float) -> Array:
    """Return the result of `steps` steps of Adam (arXiv 1412.6980, Algorithm 1) from `start` (out, in).

    All but the gradient is done by blocks of rows on the host.
    """
    height = max(1, BLOCK // start.shape[1]) if is_numpy_array(start) else len(start)
    blocks = [slice(first, first + height) for first in range(0, len(start), height)]
    x, first, second = start + 0, 0 * start, 0 * start
    for step in range(1, steps + 1):
        stop_if_interrupted()
        g = gradient(x)
        if step == 1 and not bool((g != 0).any()):  # nor does a later step move, as of frozen embeddings
            return x
        for rows in blocks:
            _move(x[rows], first[rows], second[rows], g[rows], step, learning_rate)
    return x


def _move(x: Array, first: Array, second: Array, g: Array, step: int, learning_rate: float) -> None:
    """Take a step of Adam in place, of x and of the moments of the gradient g."""
    first *= BETA_1
    first += (1 - BETA_1) * g
    second *= BETA_2
    with np.errstate(over="ignore"):  # beyond 1e154, in float32 1e19, there is no step
        second += (1 - BETA_2) * g * g
    size = second / (1 - BETA_2**step)
    size **= 0.5
    size += STABLE
    x -= learning_rate / (1 - BETA_1**step) * first / size


@scale_free
@of_matrices
def wudi(
    taus: Array,
    alpha: Sequence[float],
    context: TensorContext,
    *,
    steps: Steps = 300,
    learning_rate: LearningRate = 1e-5,
    init: Annotated[Literal["sum", "mean"], "of the task vectors, where Adam starts"] = "sum",
) -> Array:
    """Minimise the interference between task vectors by Adam (WUDI, arXiv 2503.08099).

        loss(tau) = sum_t c_t |(tau - tau_t) tau_t^T|^2 / |tau_t|^2

    The default number of steps stops long before the minimum, so the start (`init`) matters; c_t enters the loss only.
    Each step costs 2 out in^2 operations.

    DIFFERS: applies to every matrix, the authors' code to attention and MLP matrices only; `exclude` names the others. What is
    excluded, and vectors, are averaged by default; the authors' code for ViT leaves them at the base, `others: 0`, and
    divides by |tau_t|, not by its square. A zero task vector has no loss instead of an undefined one.
    """
    curvature, target = _normal_equation(taus, taus, taus, alpha)
    average = mean(taus, [1.0] * len(taus))
    start = average * len(taus) if init == "sum" else average
    return _minimised(start, curvature, target, steps, learning_rate)


@scale_free
@of_matrices
def optmerge(
    taus: Array, alpha: Sequence[float], context: TensorContext, *, steps: Steps = 300, learning_rate: LearningRate = 1e-5
) -> Array:
    """Minimise the interference of the strongest directions of the task vectors by Adam (OptMerge, arXiv 2505.19892).

        loss(tau) = sum_t c_t |(tau - avg - SVD_k(tau_t - avg)) SVD_k(tau_t)^T|^2 / |tau_t|^2,    avg = sum_t tau_t / T

    with k = floor(min(m, n) / T), but at least one, from the sum of the task vectors on.
    ASSUME: the paper was not read; loss, rank, steps and start are those of the authors' code (`wudi2`).
    DIFFERS: all matrices by default, where the authors' code averages `lm_head`; singular values that are rounding are left out.
    """
    average, count = mean(taus, [1.0] * len(taus)), max(1, min(taus[0].shape) // len(taus))
    found = (triplets(tau - average, count, length(tau)) for tau in taus)
    goals = (average + (u * s) @ vt for u, s, vt in found)
    rows = (s[:, None] * vt for _, s, vt in (triplets(tau, count, length(tau)) for tau in taus))  # U^T U is the identity
    curvature, target = _normal_equation(taus, goals, rows, alpha)
    return _minimised(average * len(taus), curvature, target, steps, learning_rate)


@scale_free
@of_matrices
def swudi(
    taus: Array,
    alpha: Sequence[float],
    context: TensorContext,
    *,
    time: Annotated[
        Annotated[float, Gt(0)] | None, "of the gradient flow, in the unit of WUDI's loss; null goes to the end of it"
    ] = 1300.0,
    rank: Annotated[
        Literal["participation"] | Annotated[float, Gt(0), Le(1)],
        "share of the eigenvectors that is moved along, or their number",
    ] = 0.65,
) -> Array:
    """Move the sum of the task vectors along the strongest eigenvectors of WUDI's loss (SWUDI, ASWUDI, arXiv 2606.07289).

        tau_0 - tau_0 V f V^T + D V (f / L) V^T,    tau_0 = sum_t tau_t,  C = V L V^T,  f = 1 - exp(-time L)

    over the ceil(rank in) largest eigenvalues L: for all of them, the gradient flow of the loss at `time`. ASWUDI has no time,
    f = 1, and ceil((sum_r sqrt L_r)^2 / sum_r L_r) eigenvalues, `rank: participation`.

    ASSUME: the abstract of the paper was read, the formulas in the authors' code. Its defaults are tuned for ViT-B/32; the same
    authors take 1800 for ViT-B/16, and 300 with a rank of 0.85 for Llama.
    DIFFERS: eigenvalues below 1e-8 count as zero and move nothing (without a time below 5e-7 in float32); the authors raise
    them to it.
    """
    curvature, target = _normal_equation(taus, taus, taus, alpha)
    start = mean(taus, [1.0] * len(taus)) * len(taus)
    xp = namespace(start)
    values, vectors = xp.linalg.eigh(curvature)
    least = negligible(values, SMALLEST) if time is None else SMALLEST  # the flow divides by no small eigenvalue
    values = values * (values > least)
    roots, total = values**0.5, float(values.sum())
    taking_part = float(roots.sum()) ** 2 / (total or 1.0) * (1 - negligible(values, SMALLEST, COMPUTED))  # at most all
    share = rank * len(values) if rank != "participation" else taking_part
    first = len(values) - math.ceil(share - SMALLEST)  # of ascending eigenvalues
    values, vectors = values[first:], vectors[:, first:]
    moved = values > 0 if time is None else -xp.expm1(-time * values)
    return start + ((target @ vectors) * (moved / (values + (values == 0))) - (start @ vectors) * moved) @ vectors.T


@of_matrices
def doge(
    taus: Array,
    alpha: Sequence[float],
    context: TensorContext,
    *,
    density: Annotated[float, Gt(0), Le(1), "share of the entries of each task vector that is added, the largest"] = 0.3,
    subspace: Annotated[int, Ge(1), "part of the rank that the shared directions take, one in so many"] = 6,
    steps: Steps = 400,
    learning_rate: LearningRate = 1e-4,
) -> Array:
    """Add to every task vector one that is learned to undo the interference of their sum (DOGE-TA, arXiv 2501.01230).

        sum_t c_t m_t (tau_t + D),   D = argmin sum_t |rows of tau_t o (tau_t - sum_s c_s (tau_s + D))|^2, each row summed

    D is learned by Adam from zero, its gradient projected out of the span of the first floor(r / subspace) left singular vectors
    of the top floor(r / T) ones of all task vectors side by side, r = min(m, n); m_t keeps the largest entries of tau_t. In the
    paper c_t is eta / |tau_t| by tensor: `coefficients: equal_length`.
    ASSUME: the paper was not read; loss, projection and settings are those of the port for FusionBench.
    DIFFERS: m_t keeps a share of each tensor, in that code of the model; all matrices, there the weights of an encoder only, so
    `exclude` the others. Directions that are shared as much as the last of the first count too, since which of them come first
    is arbitrary.
    """
    count, xp = min(taus[0].shape), namespace(taus[0])
    tops = xp.concat([triplets(tau, count // len(taus), length(tau))[0] for tau in taus], axis=1)
    u, s, _ = triplets(tops, count, COMPUTED * length(tops))
    number = min(count // subspace, len(s))
    strong = (s > 0) * (s >= float(s[number - 1]) * (1 - negligible(s, times=COMPUTED)) if number else s < 0)
    shared = u[:, : int(strong.sum())]  # singular values are in descending order
    total, scale = sum(c * tau for c, tau in zip(alpha, taus, strict=True)), sum(alpha)
    before = xp.stack([(tau * (tau - total)).sum(axis=1) for tau in taus], axis=1)
    rows = xp.stack(taus, axis=1)  # (out, T, in): a row of every expert

    def gradient(delta: Array) -> Array:
        left = before - scale * (rows @ delta[:, :, None])[:, :, 0]
        full = ((-2 * scale * left)[:, None, :] @ rows)[:, 0, :]
        full -= shared @ (shared.T @ full)
        return full

    delta = _adam(0 * taus[0], gradient, steps, learning_rate)
    return sum(c * (tau + delta) * _kept(tau, density) for c, tau in zip(alpha, taus, strict=True))


def _kept(tau: Array, density: float) -> Array:
    """Return where entries are as large as the (n - floor(density n))-th smallest of a tensor, as TIES trims a model."""
    sizes = namespace(tau).sort(abs(tau).reshape(-1))
    return abs(tau) >= sizes[max(0, len(sizes) - int(density * len(sizes)) - 1)]


COMBINE = {f.__name__: f for f in (wudi, optmerge, swudi, doge)}
