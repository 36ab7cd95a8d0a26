"""Operators on the ranks of a tensor's entries: Breadcrumbs and DELLA (`preprocess`), PCB (`combine`).

Written in operations that NumPy and torch share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

from nan_merge.core.errors import UserError
from nan_merge.methods.context import DRAWS, Array, Draw, TensorContext, checked, namespace, whole


def ranks(values: Array, axis: int = -1) -> Array:
    """Return the ranks of the entries along an axis, int64, 0 for the smallest; of equal entries the first has the lower rank."""
    xp = namespace(values)
    if not values.ndim:
        return xp.zeros_like(values, dtype=xp.int64)
    order = xp.argsort(values, axis=axis, stable=True)
    return xp.argsort(order, axis=axis, stable=True)


def row_axis(tau: Array, context: TensorContext) -> int:
    """Return the axis that a row of weights runs along: the inputs of one output of a matrix, else the last axis."""
    return 0 if context.transposed and tau.ndim == 2 else -1


@whole
def breadcrumbs(
    tau: Array,
    context: TensorContext,
    *,
    density: Annotated[float, Gt(0), Le(1), "share of entries kept"] = 0.15,
    outliers: Annotated[float, Ge(0), Lt(1), "share of entries removed first, the largest"] = 0.006,
    scope: Annotated[Literal["row", "tensor"], "range over which the shares are taken"] = "row",
) -> Array:
    """Remove the largest entries, then keep the largest of the rest (Model Breadcrumbs, arXiv 2312.06795).

    Of n entries, floor(outliers n) are removed, and floor(density n) but at least one are kept. `row` is along the last
    axis (the authors' code), `tensor` over the whole tensor (mergekit, with the defaults 0.9 and 0.01).
    DIFFERS: mergekit empties a tensor where floor(density n) = 0, removes no outliers at density 1, and fewer where both
    shares exceed one.
    """
    entries = tau.reshape(-1) if scope == "tensor" else tau
    axis = -1 if scope == "tensor" else row_axis(tau, context)
    n = entries.shape[axis] if entries.ndim else 1
    end = n - int(outliers * n)
    kept = max(1, int(density * n))
    rank = ranks(abs(entries), axis)
    return (entries * ((rank >= end - kept) & (rank < end))).reshape(tau.shape)


def _check_window(shape: tuple[int, ...], context: TensorContext, *, density: float, window: float, **_: Any) -> None:
    """Raise a UserError for probabilities of `della` outside (0, 1]."""
    if not (density - window > 0 and density + window <= 1):
        raise UserError(
            f"della: density {density} and window {window} give probabilities of keeping an entry from {density - window:g} to"
            f" {density + window:g}; expected above 0 and at most 1; take a smaller `window`"
        )


@checked(_check_window)
@whole
def della(
    tau: Array,
    context: TensorContext,
    *,
    density: Annotated[float, Gt(0), Le(1), "mean probability of keeping an entry"] = 0.7,
    window: Annotated[float, Ge(0), Lt(1), "largest change of it with the rank; half of the paper's window"] = 0.15,
    rescale: Annotated[
        Literal["entry", "l1"], "by the inverse probability of the entry, or to the old sum of magnitudes"
    ] = "entry",
    seed: Draw = 0,
) -> Array:
    """Drop entries at random, small ones more often, and rescale the rest (DELLA, arXiv 2406.11617, MAGPRUNE).

    The probability of keeping an entry grows linearly with the rank of its magnitude in its row, from density - window
    to density + window. A vector is one row; an entry alone in its row is kept with probability `density`.
    `rescale` is `entry` (1 / probability, the paper: unbiased) or `l1` (mergekit, whose `epsilon` is `window`).
    Raises UserError for probabilities outside (0, 1].
    """
    _check_window((), context, density=density, window=window)
    axis = row_axis(tau, context)
    n = tau.shape[axis] if tau.ndim else 1
    rank = namespace(tau).astype(ranks(abs(tau), axis), tau.dtype)
    place = rank / (n - 1) if n > 1 else 0.5  # 0 for the smallest of a row, 1 for the largest
    probability = density - window + 2 * window * place
    kept = tau * (context.draws(tau, seed) >= (1 - probability) * DRAWS)
    if rescale == "entry":
        return kept / probability
    before, after = abs(tau).sum(), abs(kept).sum()
    return kept * (before / (after + (after == 0)))


def _unit_range(values: Array) -> Array:
    """Shift and scale values so that they run from 0 to 1; equal ones become 0."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low + (high == low))


def _tails_cut(magnitudes: Array, tails: float) -> Array:
    """Clamp the smallest and the largest floor(tails n) of n magnitudes to the next ones."""
    xp = namespace(magnitudes)
    ordered, cut = xp.sort(magnitudes), int(tails * magnitudes.shape[0])
    return xp.clip(magnitudes, ordered[cut], ordered[-1 - cut])


def _balanced(score: Array, ratio: float) -> Array:
    """Return weights in [0, 1]: above 0 for about the share `ratio` of the highest scores, and for at least one.

    ASSUME: where scores tie so that none lies above the cut, the highest have weight 1 if they are above zero (as for a
    scalar that agrees with the sum), and otherwise 0 (as for a zero task vector); the authors' code divides 0 by 0.
    """
    xp, n = namespace(score), score.shape[0]
    ordered = xp.sort(score)
    cut, top = ordered[min(int(n * (1 - ratio)), n - 1)], ordered[-1]
    if bool(cut < top):
        return (xp.where(score > cut, score, cut) - cut) / (top - cut)
    return xp.astype((score == top) & (score > 0), score.dtype)


@whole
def pcb(
    taus: Sequence[Array],
    alpha: Sequence[float],
    context: TensorContext,
    *,
    ratio: Annotated[float, Gt(0), Le(1), "share of entries kept in each task"] = 0.05,
    tails: Annotated[float, Ge(0), Lt(0.5), "share of magnitudes clamped at either end"] = 1e-4,
    inter: Annotated[Literal["sum", "pairs"], "competition of a task with the sum of all, or with each"] = "sum",
) -> Array:
    """Average entries weighted by intra- and inter-task competition (PCB-Merging, arXiv 2410.02396, no evolutionary search).

        sum_t c_t w_t tau_t / sum_t w_t,   w_t the scores exp(T |tau_t|^2) tanh(tau_t sum_s tau_s), cut and scaled to [0, 1]

    with |tau_t| scaled to [0, 1]. `inter: pairs` uses sum_s tanh(tau_t tau_s) of vectors scaled to [-1, 1], as the authors'
    script for vision does, with `tails: 0.01`. Their lambda, 1.2, is c_t.
    DIFFERS: computed over each tensor, not over the flattened model, so that a tensor fits in memory.
    """
    xp, shape = namespace(taus[0]), taus[0].shape
    flat = [tau.reshape(-1) for tau in taus]
    sizes = [_tails_cut(abs(tau), tails) for tau in flat]
    units = [_unit_range(size) for size in sizes]
    signed = [xp.sign(tau) * unit for tau, unit in zip(flat, units, strict=True)]
    total, above, below = sum(flat), 0 * flat[0], 0 * flat[0]
    for t, (c, tau, size, unit) in enumerate(zip(alpha, flat, sizes, units, strict=True)):
        rivals = xp.tanh(tau * total) if inter == "sum" else sum(xp.tanh(signed[t] * other) for other in signed)
        weight = _balanced(xp.exp(len(flat) * (unit**2 - 1)) * rivals, ratio)  # a common factor changes no weight
        above, below = above + c * weight * (xp.sign(tau) * size), below + weight
    return (above / xp.clip(below, 1e-12, None)).reshape(shape)


PREPROCESS = {f.__name__: f for f in (breadcrumbs, della)}
COMBINE = {f.__name__: f for f in (pcb,)}
