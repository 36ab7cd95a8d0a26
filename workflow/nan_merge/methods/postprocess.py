"""`postprocess` operators: the merged task vector and the T combined ones to a merged one, (n,), (T, n) -> (n,).

Written in operations that NumPy and torch share. Hyper-parameters are keyword-only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Ge, Gt

from nan_merge.methods.context import Array, TensorContext, length, negligible, of_weights, scale_free, whole
from nan_merge.methods.varying import Varies


def unchanged(merged: Array, taus: Sequence[Array], context: TensorContext) -> Array:
    """Return the merged task vector as it is."""
    return merged


def scale(
    merged: Array,
    taus: Sequence[Array],
    context: TensorContext,
    *,
    factor: Annotated[float, "of the merged task vector", Varies()],
) -> Array:
    """Multiply the merged task vector by `factor` (the lambda of methods whose coefficients are shares)."""
    return context.number(factor) * merged


@of_weights
@whole
def scale_weights(
    merged: Array,
    taus: Sequence[Array],
    context: TensorContext,
    *,
    factor: Annotated[Annotated[float, Gt(0)] | None, "of the merged weights, base and all; null is T / 2"] = None,
) -> Array:
    """Multiply the merged weights, not their task vector, by `factor`: s sum_t c_t W_t for coefficients that sum to one.

    The literal reading of NAN's global scaling factor (arXiv 2505.16148), a negative control: it scales the base too.
    ASSUME: the paper does not state the factor; T / 2 is that of the public reimplementation MMCR.
    """
    s = len(taus) / 2 if factor is None else factor
    return s * merged + (s - 1) * context.base


def lines(
    merged: Array,
    taus: Sequence[Array],
    context: TensorContext,
    *,
    alpha: Annotated[float, "factor in the first block and outside the blocks"] = 0.5,
    beta: Annotated[float, "increase of the factor from the first block to the last"] = 1.0,
) -> Array:
    """Scale the merged task vector by alpha + beta l / (L - 1) in block l of L, by alpha outside (LiNeS, arXiv 2410.17146).

    ASSUME: the paper sets alpha = |sum_t tau_t|_1 / |tau_merged|_1 / T over the model, which is 1 / (lambda T) for
    lambda times a plain sum, and selects beta from a grid on validation data. With the defaults the mean factor is one.
    """
    return (alpha + beta * (context.depth or 0.0)) * merged


@scale_free
@whole
def magic(
    merged: Array,
    taus: Sequence[Array],
    context: TensorContext,
    *,
    factor: Annotated[float, Ge(0), "of the mean norm of the task vectors, the paper's rho"] = 1.0,
) -> Array:
    """Bring the merged task vector to the mean norm of those that were combined (weight space of MAGIC, arXiv 2512.19320).

        factor mean_t |tau_t| / |merged| merged,    Frobenius norms of one tensor

    What scales the merge as a whole, such as lambda, cancels: a global factor is not needed.
    ASSUME: the paper was not read; this is the formula of its public reimplementation for mergekit. The authors' code scales
    every row towards an ellipsoid through the task vectors, up only, and layers that it finds sensitive on data down only.
    DIFFERS: the norms are those of the preprocessed (trimmed, dropped) task vectors. A merge that is rounding beside them, where
    they cancel, stays as it is.
    """
    wanted = sum(map(length, taus)) / len(taus)
    found = length(merged)
    return merged * (factor * wanted / found if found > negligible(merged) * wanted else 1.0)


POSTPROCESS = {f.__name__: f for f in (unchanged, scale, scale_weights, lines, magic)}
