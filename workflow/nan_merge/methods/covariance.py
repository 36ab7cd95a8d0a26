"""`combine` operators that weigh the directions of a layer's input: RegMean, ACTMat with TACT.

With C_t the covariance of the inputs x of a linear layer in expert t, the loss sum_t c_t E|(tau - tau_t) x|^2 is least at

    tau = (sum_t c_t tau_t C_t) (sum_t c_t C_t)^-1        tau, tau_t (out, in), C_t (in, in)

RegMean measures C_t; ACTMat uses tau_t^T tau_t instead, as the loss of WUDI does (`interference`). c_t weighs the covariance
of an expert, not its task vector, so a common factor of the coefficients cancels. One covariance is held at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt
from array_api_compat import device

from nan_merge.core.errors import UserError
from nan_merge.core.parallel import stop_if_interrupted
from nan_merge.methods.context import Array, TensorContext, namespace, requires, scale_free, unit
from nan_merge.methods.decompose import Division, clear, divide_by, is_lossy, product, quotients, times_gram
from nan_merge.methods.matrices import mean, of_matrices, or_one

Covariance = tuple[Array, Array | None]  # C (in, in), and R (out, in) if C = R^T R is known
UNIT_32 = 2.0**-23  # the distance from 1 to the next number in float32


@scale_free
@requires("gram")
@of_matrices
def gram(
    taus: Array,
    alpha: Sequence[float],
    context: TensorContext,
    *,
    off_diagonal: Annotated[float, Ge(0), Le(1), "factor of the off-diagonal entries of Gram matrices"] = 0.95,
) -> Array:
    """Minimise the change of every layer's outputs on the inputs of all tasks (RegMean, arXiv 2212.09849).

        (sum_t c_t tau_t G_t) (sum_t c_t G_t)^-1,    G_t the Gram matrix of the layer's inputs

    `context.calibration` holds T Gram matrices (in, in); a tensor without them gets the mean. Entries off their diagonals
    are multiplied by `off_diagonal` (paper: 0.9; FusionBench for CLIP: 0.95). The base cancels: this plus the base is
    RegMean on the weights.

    ASSUME: an input direction outside all examples, but for rounding, gets the mean, the limit of a vanishing ridge; the
    paper leaves it open. The system is therefore solved around the mean, which changes nothing where the sum of the G_t has
    an inverse.

    Raises UserError for Gram matrices of another number or shape.
    """
    if len(context.calibration) == 0:
        return mean(taus, alpha)
    xp, (_, width) = namespace(taus[0]), taus[0].shape
    like = {"dtype": taus[0].dtype, "device": device(taus[0])}
    _check(context, len(taus), width)
    factor = off_diagonal + (1 - off_diagonal) * xp.eye(width, **like)
    around = mean(taus, alpha) * (len(taus) / (sum(alpha) or 1.0))
    weighted = (c * factor * xp.asarray(matrix, **like) for c, matrix in zip(alpha, context.calibration, strict=True))
    cutoff = None if off_diagonal < 1 else unit(taus[0]) * width  # fewer examples than inputs leave the sum singular
    return around + _least_squares(taus, ((each, None) for each in weighted), partial(divide_by, cutoff=cutoff), around)


def _check(context: TensorContext, experts: int, width: int) -> None:
    """Raise a UserError unless the calibration is one square matrix of the layer's inputs for every expert."""
    shapes = [list(matrix.shape) for matrix in context.calibration]
    if shapes != [[width, width]] * experts:
        raise UserError(
            f"Gram matrices of tensor '{context.tensor}': expected {experts} of {[width, width]}, one an expert over the layer's"
            f" {width} inputs; found {shapes}. Collect the calibration again with these experts, or average the tensor with"
            " `exclude: <regex>`"
        )


def _least_squares(
    taus: Sequence[Array], covariances: Iterable[Covariance], over: Callable[[Array], Division], origin: Array | None = None
) -> Array:
    """Return (sum_t (tau_t - origin) C_t) (sum_t C_t)^+, with the division `over` sum_t C_t.

    Where matrices are tall, every C_t is divided, which saves the division of a long numerator; otherwise one C_t is held at a
    time.
    """
    shifted = taus if origin is None else (tau - origin for tau in taus)
    if len(taus[0]) >= len(taus) * taus[0].shape[1]:
        held = [covariance for covariance, _ in covariances]
        division = over(sum(held))
        return sum(tau @ division(covariance) for tau, covariance in zip(shifted, held, strict=True))
    numerator = denominator = 0.0
    for tau, (covariance, rows) in zip(shifted, covariances, strict=True):
        numerator = numerator + times_gram(tau, covariance, rows)
        denominator = denominator + covariance
    return over(denominator)(numerator)


@scale_free
@of_matrices
def actmat(
    taus: Array,
    alpha: Sequence[float],
    context: TensorContext,
    *,
    density: Annotated[float, Gt(0), Le(1), "share of the entries, largest first, that covariances are made of"] = 1.0,
    normalise: Annotated[Literal["none", "trace"], "what covariances are divided by"] = "none",
    cutoff: Annotated[
        float, Ge(0), Lt(1), "share of the largest eigenvalue, times the width, below which others count as zero"
    ] = UNIT_32,
) -> Array:
    """Merge as RegMean does, with covariances estimated from the task vectors (ACTMat, arXiv 2604.01329).

        (sum_t c_t tau_t C_t) (sum_t c_t C_t)^+,    C_t = tau_t^T tau_t

    `density` below 1 computes C_t from the entries of largest magnitude only (TACT: 0.5); tau_t itself stays whole.
    `normalise: trace` divides C_t by its trace; with `density` 1 that is the exact minimum of WUDI's loss.

    ASSUME: eigenvalues below `cutoff` times the width, relative to the largest, count as zero. The authors' code inverts
    in float32, where torch's cutoff is 2^-23; 2^-52 is that of float64.
    """
    share, are_few = cutoff * taus[0].shape[1], len(taus) * taus[0].shape[0] < taus[0].shape[1]
    over = partial(divide_by, cutoff=share)
    scaled: Iterable[Array] = _scaled_rows(taus, alpha, density, normalise)
    if min(alpha) >= 0 and clear(taus[0], share) > share:
        scaled = list(scaled)
        if are_few or is_lossy(sum(rows.T @ rows for rows in scaled), share):
            parts = quotients(scaled, 0.0, share)
            return sum(product(tau, rows.T, part) for tau, rows, part in zip(taus, scaled, parts, strict=True))
    if min(alpha) >= 0 and are_few:
        return _in_span_of_rows(taus, list(scaled), over)
    covariances = ((rows.T @ rows, rows) if c >= 0 else (-rows.T @ rows, None) for c, rows in zip(alpha, scaled, strict=True))
    return _least_squares(taus, covariances, over)


def _scaled_rows(taus: Sequence[Array], alpha: Sequence[float], density: float, normalise: str) -> Iterator[Array]:
    """Yield R_t (out, in) with R_t^T R_t = |c_t| C_t."""
    for c, tau in zip(alpha, taus, strict=True):
        stop_if_interrupted()
        kept = _largest(tau, density)
        size = abs(c / or_one((kept * kept).sum()) if normalise == "trace" else c)
        yield kept if size == 1 else size**0.5 * kept


def _in_span_of_rows(taus: Sequence[Array], rows: Sequence[Array], over: Callable[[Array], Division]) -> Array:
    """Return the merge from R, all R_t in one column, where it has fewer rows than inputs: [tau_t R_t^T]_t (R R^T)^+ R."""
    xp = namespace(taus[0])
    stacked = xp.concat(list(rows))
    products = xp.concat([tau @ each.T for tau, each in zip(taus, rows, strict=True)], axis=1)
    return over(stacked @ stacked.T)(products) @ stacked


def _largest(tau: Array, density: float) -> Array:
    """Keep the round(density n), at least one, entries of largest magnitude and set the others to zero.

    DIFFERS: all entries as large as the smallest kept one are kept; the authors' code keeps an arbitrary choice of them.
    """
    size = tau.shape[0] * tau.shape[1]
    if density == 1 or size == 0:
        return tau
    magnitudes = abs(tau)
    smallest = namespace(tau).sort(magnitudes.reshape(-1))[size - max(1, round(density * size))]
    return tau * (magnitudes >= smallest)


COMBINE = {f.__name__: f for f in (gram, actmat)}
