"""Operators that rescale singular values: STAR (`preprocess`), SVC and Subspace Boosting (`postprocess`).

They take whole tensors; a tensor that is not a matrix is returned as it is.
DIFFERS: a convolution over single pixels is a matrix too; the authors' codes take two axes only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from annotated_types import Gt, Le

from nan_merge.methods.context import COMPUTED, Array, TensorContext, checked, namespace, negligible, whole
from nan_merge.methods.decompose import svd
from nan_merge.methods.matrices import LARGEST, Exclude, Largest, is_decomposed


@checked(is_decomposed)
@whole
def star(
    tau: Array,
    context: TensorContext,
    *,
    eta: Annotated[float, Gt(0), Le(1), "share of the nuclear norm that the kept singular values reach"] = 0.4,
    rescale: Annotated[Literal["nuclear", "none"], "norm that the kept values are rescaled to"] = "nuclear",
    exclude: Exclude = "",
    largest: Largest = LARGEST,
) -> Array:
    """Keep the largest singular values and rescale them to the nuclear norm of all (STAR, arXiv 2502.10339).

    The first r are kept, with r the smallest number whose sum reaches `eta` of the nuclear norm (the paper's 40 %).
    """
    shape = tuple(tau.shape)
    if not is_decomposed(shape, context, exclude, largest) or not bool((tau != 0).any()):
        return tau
    u, s, vt = svd(tau.reshape(shape[:2]))
    sums = s.cumsum(0)
    rank = int((sums < eta * sums[-1]).sum()) + 1
    factor = sums[-1] / sums[rank - 1] if rescale == "nuclear" else 1.0
    return ((u[:, :rank] * (factor * s[:rank])) @ vt[:rank]).reshape(shape)


@checked(is_decomposed)
@whole
def svc(
    merged: Array,
    taus: Sequence[Array],
    context: TensorContext,
    *,
    alpha: Annotated[Annotated[float, Gt(0)] | None, "lower bound of a response; 1 only shrinks; null is 1 / T"] = None,
    exclude: Exclude = "",
    largest: Largest = LARGEST,
) -> Array:
    """Match the response of the merge in each singular direction to that of its task vectors (SVC, arXiv 2602.05536).

    With merged = U S V^T, direction r gets gamma_r = T / sum_t max(alpha, s_rt) times its singular value, where
    s_rt = <a_r, a_rt> / |a_rt|^2 compares the responses a_r = u_r^T merged and a_rt = u_r^T tau_t. Where singular values
    are equal (Iso-C makes them so), directions are arbitrary, and so is the result.
    ASSUME: a task vector without a response in a direction counts as s_rt = 0.
    DIFFERS: the authors' code compares with the original task vectors, here the preprocessed ones (trimmed, dropped) count.
    """
    shape = tuple(merged.shape)
    if not is_decomposed(shape, context, exclude, largest):
        return merged
    floor = 1 / len(taus) if alpha is None else alpha
    matrix, matrices = merged.reshape(shape[:2]), [tau.reshape(shape[:2]) for tau in taus]
    if context.transposed:
        return _calibrated(matrix.T, [tau.T for tau in matrices], floor).T
    return _calibrated(matrix, matrices, floor).reshape(shape)


def _calibrated(merged: Array, taus: Sequence[Array], floor: float) -> Array:
    u, s, vt = svd(merged)
    together, total = s[:, None] * vt, s * 0
    for tau in taus:
        alone = u.T @ tau
        energy = (alone * alone).sum(-1)
        seen = energy > negligible(tau, times=COMPUTED) ** 2 * (tau * tau).sum()
        response = seen * (together * alone).sum(-1) / (energy + ~seen)
        total = total + namespace(s).where(response > floor, response, floor)
    return (u * (s * len(taus) / total)) @ vt


@checked(is_decomposed)
@whole
def boost(
    merged: Array,
    taus: Sequence[Array],
    context: TensorContext,
    *,
    beta: Annotated[float, Gt(0), Le(1), "share of the sum of singular values, beyond which all are raised"] = 0.01,
    exclude: Exclude = "",
    largest: Largest = LARGEST,
) -> Array:
    """Raise the weak singular values of the merge to a stronger one (Subspace Boosting, arXiv 2506.16506).

        max(s_r, s_k),    k the first index with s_1 + ... + s_k >= beta sum_r s_r

    ASSUME: the abstract of the paper was read, formula and beta in public codes; where the first singular value has 1 % of the
    sum, which is so in most layers, all get that one. lambda is that of the host; the paper tunes it.
    DIFFERS: singular values that are rounding stay: their directions are arbitrary. Fused attention projections are one matrix;
    public codes take query, key and value apart.
    """
    shape = tuple(merged.shape)
    if not is_decomposed(shape, context, exclude, largest):
        return merged
    u, s, vt = svd(merged.reshape(shape[:2]))
    cut = s[min(int((s.cumsum(0) < beta * s.sum()).sum()), len(s) - 1)]
    raised = namespace(s).where(s > cut, s, cut)
    return ((u * namespace(s).where(s > negligible(s) * s[0], raised, s)) @ vt).reshape(shape)


PREPROCESS = {f.__name__: f for f in (star,)}
POSTPROCESS = {f.__name__: f for f in (svc, boost)}
