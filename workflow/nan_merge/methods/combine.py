"""`combine` operators for flat pieces: T task vectors and T coefficients to one task vector, (T, n), (T,) -> (n,).

Written in operations that NumPy and torch share, summed in the order of the experts and without BLAS, so that the
bytes do not depend on threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from annotated_types import Ge

from nan_merge.core.errors import UserError
from nan_merge.methods.context import Array, TensorContext, checked, namespace, requires, scale_free, whole

Elect = Annotated[Literal["weighted", "unweighted"], "whether signs are elected after or before weighting"]
DivideBy = Annotated[Literal["count", "coefficients"], "number of agreeing experts or sum of their coefficients"]


def _sum(terms: Sequence[Array]) -> Array:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def weighted_sum(taus: Sequence[Array], alpha: Sequence[float], context: TensorContext) -> Array:
    """Return sum_t c_t tau_t (task arithmetic, arXiv 2212.04089; weight averaging with c_t = 1 / T, arXiv 2203.05482)."""
    return _sum([c * tau for c, tau in zip(alpha, taus, strict=True)])


def _agreeing(taus: Sequence[Array], alpha: Sequence[float], elect: str) -> tuple[list[Array], list[Array]]:
    """Return the weighted task vectors and the masks of entries that have the elected sign.

    DIFFERS: where the elected sum is exactly zero, the sign is plus; the TIES code takes the majority sign of the model.
    """
    weighted = [c * tau for c, tau in zip(alpha, taus, strict=True)]
    elected = _sum(weighted if elect == "weighted" else list(taus)) >= 0
    return weighted, [((w > 0) & elected) | ((w < 0) & ~elected) for w in weighted]


def disjoint_sum(taus: Sequence[Array], alpha: Sequence[float], context: TensorContext, *, elect: Elect = "weighted") -> Array:
    """Sum the weighted entries that agree with the elected sign (TIES as in the tables of NAN and AdaMerging).

    ASSUME: NAN (arXiv 2505.16148) leaves open whether signs are elected before or after weighting; `elect` is
    `weighted` or `unweighted`.
    """
    weighted, masks = _agreeing(taus, alpha, elect)
    return _sum([w * m for w, m in zip(weighted, masks, strict=True)])


def disjoint_mean(
    taus: Sequence[Array],
    alpha: Sequence[float],
    context: TensorContext,
    *,
    elect: Elect = "weighted",
    divide_by: DivideBy = "count",
) -> Array:
    """Average the weighted entries that agree with the elected sign (TIES, arXiv 2306.01708, step 3).

    `divide_by` is `count` (of the agreeing experts) or `coefficients` (their sum, which cancels a common scale).
    """
    weighted, masks = _agreeing(taus, alpha, elect)
    total = _sum([w * m for w, m in zip(weighted, masks, strict=True)])
    weights = alpha if divide_by == "coefficients" else [1.0] * len(masks)
    one = taus[0] * 0 + 1  # in the type of the task vectors
    divisor = _sum([one * abs(c) * m for c, m in zip(weights, masks, strict=True)])
    return total / (divisor + (divisor == 0))


def max_magnitude(taus: Sequence[Array], alpha: Sequence[float], context: TensorContext) -> Array:
    """Take each entry of the weighted task vector with the largest magnitude there (MagMax, arXiv 2407.06322).

        c_s tau_s with s = argmax_t |c_t tau_t|, entry by entry

    DIFFERS: of equal magnitudes the first expert's is taken; the authors' code takes the last one's.
    """
    where = namespace(taus[0]).where
    largest = alpha[0] * taus[0]
    for c, tau in zip(alpha[1:], taus[1:], strict=True):
        weighted = c * tau
        largest = where(abs(weighted) > abs(largest), weighted, largest)
    return largest


def consensus(
    taus: Sequence[Array],
    alpha: Sequence[float],
    context: TensorContext,
    *,
    threshold: Annotated[float, Ge(0), "factor of |sum of the others| that an active entry exceeds"] = 0.4,
    agree: Annotated[int, Ge(0), "number of tasks in which a kept entry is active"] = 2,
) -> Array:
    """Keep of sum_t c_t tau_t the entries that are active in enough tasks (Consensus TA, arXiv 2405.07813).

    An entry is active in task t where |tau_t| > threshold |tau_MTL - tau_t| (TALL masks).
    ASSUME: the paper selects a threshold of 0.2 to 0.6 for each task on validation data; 0.4 is the middle. tau_MTL of the
    masks is the sum divided by the mean coefficient, so that a common scale changes no mask, as in the paper.
    DIFFERS: with fewer than `agree` tasks, all of them must agree; the paper would remove everything.
    """
    merged = weighted_sum(taus, alpha, context)
    total = merged / (sum(alpha) / len(alpha) or 1.0)
    one = taus[0] * 0 + 1
    active = _sum([one * (abs(tau) > threshold * abs(total - tau)) for tau in taus])
    return merged * (active >= min(agree, len(taus)))


def overlap_mean(
    taus: Sequence[Array],
    alpha: Sequence[float],
    context: TensorContext,
    *,
    threshold: Annotated[float, Ge(0), "magnitude that an entry exceeds where its task counts as changing it"] = 0.0,
) -> Array:
    """Average each entry over the tasks that change it (Localize-and-Stitch, arXiv 2408.13656; RAM, arXiv 2601.13572).

        sum_t c_t m_t tau_t / sum_t m_t,    m_t = |tau_t| > threshold

    So what one task alone changes is taken whole. After `trim` this is Localize-and-Stitch without data; RAM leaves the task
    vectors as they are and has a threshold of 1e-5.
    """
    one = taus[0] * 0 + 1
    masks = [one * (abs(tau) > threshold) for tau in taus]
    count = _sum(masks)
    return _sum([c * tau * mask for c, tau, mask in zip(alpha, taus, masks, strict=True)]) / (count + (count == 0))


@scale_free
@requires("fisher")
def fisher(
    taus: Sequence[Array],
    alpha: Sequence[float],
    context: TensorContext,
    *,
    floor: Annotated[float, Ge(0), "added to every Fisher weight"] = 1e-6,
) -> Array:
    """Average the task vectors, each entry weighted by its Fisher information (arXiv 2111.09832).

        sum_t c_t F_t tau_t / sum_t c_t F_t,    F_t the calibration of expert t, plus `floor`

    The weights of an entry sum to one, so this equals Fisher merging of the models: the base cancels.
    ASSUME: a tensor without calibration has equal Fisher weights, hence the mean weighted by c_t.
    """
    weights: list[Array] = list(alpha)
    if len(context.calibration):
        as_type = namespace(taus[0]).astype
        weights = [
            c * (as_type(f, tau.dtype, copy=False) + floor) for c, f, tau in zip(alpha, context.calibration, taus, strict=True)
        ]
    total = _sum(weights)
    total = total + (total == 0)
    return _sum([w / total * tau for w, tau in zip(weights, taus, strict=True)])


def _task(shape: tuple[int, ...], context: TensorContext) -> int:
    """Return the task of a context; UserError without one."""
    if context.task is None:
        raise UserError("emr makes a model for each task; name one with `--task`, or choose a method with `static: true`")
    return context.task


@scale_free
@checked(_task)
@whole
def emr(taus: Sequence[Array], alpha: Sequence[float], context: TensorContext) -> Array:
    """Elect one task vector, then mask and rescale it for the task of the context (EMR-Merging, arXiv 2405.17461).

    The elected sign is that of sum_t c_t tau_t (0 is minus), the elected entry the largest |tau_t| of that sign; the mask
    keeps the entries with the sign of the task's own vector. This makes a model for each task: `context.task`.
    DIFFERS: the rescaler mean |tau_t| / mean |masked| is computed for each tensor, in the paper for the model.

    Raises UserError without a task.
    """
    positive = _sum([c * tau for c, tau in zip(alpha, taus, strict=True)]) > 0
    one = taus[0] * 0 + 1
    sign = 2 * one * positive - one
    largest = taus[0] * 0
    for tau in taus:
        agreeing = abs(tau) * (tau * sign > 0)
        largest = namespace(tau).where(agreeing > largest, agreeing, largest)
    own = taus[_task((), context)]
    masked = largest * sign * (own * sign > 0)
    size = float(abs(masked).sum())
    return masked * (float(abs(own).sum()) / size if size else 1.0)


COMBINE = {
    f.__name__: f for f in (weighted_sum, disjoint_sum, disjoint_mean, max_magnitude, consensus, overlap_mean, fisher, emr)
}
