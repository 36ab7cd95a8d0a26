"""Operators that choose or weigh entries by a measure of the whole tensor: Arcee Fusion (`preprocess`), SCE, RAM+ (`combine`).

Written in operations that NumPy and torch share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Ge, Gt, Le

from nan_merge.methods.combine import disjoint_mean
from nan_merge.methods.context import Array, TensorContext, namespace, negligible, of_weights, scale_free, whole
from nan_merge.methods.sparsify import row_axis

SAME = 1e-14  # share of the length of entries below which their deviation is rounding in float64
DIVERGENCE_FLOOR = 1e-8  # added to probabilities, as in mergekit


@of_weights
@whole
def fusion(tau: Array, context: TensorContext) -> Array:
    """Keep the entries whose importance is an outlier of the tensor (Arcee Fusion of mergekit).

        |tau_ij| KL(softmax of row i of W_t || softmax of row i of W_0)  >=  median + 1.5 (q_3 - q_1)

    The limits are quartiles of the importance over the tensor, each the entry at floor(q (n - 1)) of those sorted. Importance is
    computed in float64: the divergence of rows that are nearly equal is less than float32 rounds off.
    DIFFERS: quantiles are those of all entries, in mergekit of a random million; a row of a matrix is the inputs of one output,
    however it is stored. mergekit takes one expert; of several, each is reduced like this and then combined.
    """
    axis, xp = row_axis(tau, context), namespace(tau)
    base, moved = (xp.astype(each, xp.float64, copy=False) for each in (context.base, tau))  # see the docstring
    p, q = (_softmax(weights, axis) + DIVERGENCE_FLOOR for weights in (base + moved, base))
    divergence = xp.sum(p * xp.log(p / q), axis=axis, keepdims=True)
    importance = abs(tau) * divergence
    ordered = xp.sort(importance.reshape(-1))
    first, median, third = (ordered[int(share * (ordered.shape[0] - 1))] for share in (0.25, 0.5, 0.75))
    return tau * (importance >= median + 1.5 * (third - first))


def _softmax(values: Array, axis: int) -> Array:
    xp = namespace(values)
    powers = xp.exp(values - xp.max(values, axis=axis, keepdims=True))
    return powers / xp.sum(powers, axis=axis, keepdims=True)


@scale_free
@whole
def sce(
    taus: Sequence[Array],
    alpha: Sequence[float],
    context: TensorContext,
    *,
    select: Annotated[float, Gt(0), Le(1), "share of the entries that differ among experts which is kept, by variance"] = 1.0,
) -> Array:
    """Select entries by variance, calculate weights of tensors, erase minority signs (SCE of FuseChat, arXiv 2408.07990).

        sum_t w_t m_t tau_t / sum_t w_t m_t,    w_t = c_t mean(tau_t^2), m_t where tau_t has the sign of sum_s tau_s

    `select` below 1 sets all other entries to zero first: floor(select n) of the n entries on which the experts differ are kept.
    The default, that of mergekit and of the authors' code, selects nothing. The weights rise with the norms: the opposite of NAN.
    ASSUME: as in mergekit, entries that are not selected stay at the base; the authors' code leaves them out of the weights only.
    DIFFERS: of entries with equal variance all or none are kept.
    """
    if select < 1:
        mask = _selected(taus, select)
        taus = [tau * mask for tau in taus]
    weights = [c * float((tau * tau).mean()) for c, tau in zip(alpha, taus, strict=True)]
    largest = max(map(abs, weights))
    scaled = [weight / largest for weight in weights] if largest else [1.0] * len(weights)  # squares of tiny entries stay numbers
    return disjoint_mean(taus, scaled, context, elect="unweighted", divide_by="coefficients")


def _selected(taus: Sequence[Array], select: float) -> Array:
    """Return where the variance over experts is among the floor(select n) largest of the n that are not zero."""
    centre = sum(taus) / len(taus)
    variance = sum((tau - centre) ** 2 for tau in taus)
    variance = variance * (variance > negligible(variance, SAME) ** 2 * sum(tau * tau for tau in taus))
    flat = variance.reshape(-1)
    count = int(select * int((flat > 0).sum()))
    if count == 0:
        return flat.reshape(variance.shape) < 0
    return variance >= namespace(flat).sort(flat)[-count]


@whole
def ram_plus(
    taus: Sequence[Array],
    alpha: Sequence[float],
    context: TensorContext,
    *,
    threshold: Annotated[float, Ge(0), "magnitude that an entry exceeds where its task counts as changing it"] = 1e-5,
    rescale: Annotated[float, Ge(0), "gain of entries that one task alone changes, the paper's r"] = 0.2,
    cap: Annotated[float, Ge(0), "largest ratio that counts, the paper's alpha"] = 1.0,
) -> Array:
    """Average shared entries, and stretch those that one task alone changes (RAM+, arXiv 2601.13572).

        c_t (1 + rescale min(rho_t, cap)) tau_t  where task t alone exceeds the threshold,  sum_t c_t tau_t / n  where n > 1 do

    with rho_t the number of shared entries of task t over the number of its own.
    ASSUME: the defaults are those of the authors' command (factor 1.2, ratio up to 1); mergekit has 0.1 and 0.2.
    DIFFERS: rho_t is counted over each tensor, as in mergekit's `ramplus_tl`; the authors count over the model.
    """
    one = taus[0] * 0 + 1
    masks = [one * (abs(tau) > threshold) for tau in taus]
    count = sum(masks)
    merged = 0 * taus[0]
    for c, tau, mask in zip(alpha, taus, masks, strict=True):
        alone = mask * (count == 1)
        own = float(alone.sum())
        gain = 1 + rescale * min(cap, (float(mask.sum()) - own) / own) if own else 1.0
        merged = merged + c * tau * (alone * gain + (mask - alone) / (count + (count == 0)))
    return merged


PREPROCESS = {f.__name__: f for f in (fusion,)}
COMBINE = {f.__name__: f for f in (sce, ram_plus)}
