"""`combine` operators that weigh the directions of a layer's input: RegMean, ACTMat with TACT.

With C_t the covariance of the inputs x of a linear layer in expert t, the loss sum_t c_t E|(tau - tau_t) x|^2 is least at

    tau = (sum_t c_t tau_t C_t) (sum_t c_t C_t)^-1        tau, tau_t (out, in), C_t (in, in)

RegMean measures C_t; ACTMat uses tau_t^T tau_t instead, as the loss of WUDI does (`interference`). c_t weighs the covariance
of an expert, not its task vector, so a common factor of the coefficients cancels. One covariance is held at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt
from array_api_compat import device

from nan_merge.core.errors import UserError
from nan_merge.core.parallel import stop_if_interrupted
from nan_merge.methods.context import Array, TensorContext, namespace, requires, scale_free
from nan_merge.methods.decompose import solve_right
from nan_merge.methods.matrices import mean, of_matrices, or_one

UNIT_32, UNIT_64 = 2.0**-23, 2.0**-52  # the distance from 1 to the next number in float32, in float64


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

    ASSUME: an input direction outside all examples gets the mean, the limit of a vanishing ridge; the paper leaves it
    open. The system is therefore solved around the mean, which changes nothing where the sum of the G_t has an inverse.

    Raises UserError for Gram matrices of another number or shape.
    """
    if len(context.calibration) == 0:
        return mean(taus, alpha)
    xp, (_, width) = namespace(taus[0]), taus[0].shape
    like = {"dtype": taus[0].dtype, "device": device(taus[0])}
    _check(context, len(taus), width)
    factor = off_diagonal + (1 - off_diagonal) * xp.eye(width, **like)
    around = mean(taus, alpha) * (len(taus) / (sum(alpha) or 1.0))
    numerator, denominator = 0 * around, 0 * factor
    for c, tau, matrix in zip(alpha, taus, context.calibration, strict=True):
        weight = c * factor * xp.asarray(matrix, **like)
        numerator = numerator + (tau - around) @ weight
        denominator = denominator + weight
    if off_diagonal < 1:
        return around + solve_right(numerator, denominator)
    return around + numerator @ _inverse(denominator, UNIT_64)  # fewer examples than inputs leave it singular


def _check(context: TensorContext, experts: int, width: int) -> None:
    """Raise a UserError unless the calibration is one square matrix of the layer's inputs for every expert."""
    shapes = [list(matrix.shape) for matrix in context.calibration]
    if shapes != [[width, width]] * experts:
        raise UserError(
            f"Gram matrices of tensor '{context.tensor}': expected {experts} of {[width, width]}, one an expert over the layer's"
            f" {width} inputs; found {shapes}. Collect the calibration again with these experts, or average the tensor with"
            " `exclude: <regex>`"
        )


def _inverse(symmetric: Array, unit: float) -> Array:
    """Return the pseudo-inverse (n, n); eigenvalues below `unit` times n, relative to the largest, count as zero."""
    return namespace(symmetric).linalg.pinv(symmetric, rtol=unit * symmetric.shape[0], hermitian=True)


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
    numerator, denominator = 0 * taus[0], 0.0
    for c, tau in zip(alpha, taus, strict=True):
        stop_if_interrupted()
        kept = _largest(tau, density)
        covariance = kept.T @ kept
        share = c / or_one((kept * kept).sum()) if normalise == "trace" else c
        numerator = numerator + tau @ (share * covariance)
        denominator = denominator + share * covariance
    return numerator @ _inverse(denominator, cutoff)


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
