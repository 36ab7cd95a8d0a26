"""ACE-Merging (arXiv 2603.02945), a `combine` operator: input covariances estimated from the task vectors alone.

Equation numbers are the paper's. For one matrix, with DW_t (out, in) the task vector of expert t:

    W~_t   DW_t less its mean row                                    Eq. 5, 6
    S~_t   W~_t^T W~_t, over its trace if the experts are uneven     Eq. 7-9
    R_t    S~_t + eps_t I                                            Eq. 10
    C      every row the mean row of sum_t S~_t, the prior           Eq. 11-13
    W_pre  (sum_t W~_t R_t) (sum_t R_t + C)^-1                       Eq. 14
    W      W_pre + sigma U_k V_k^T, if the experts are uneven        Eq. 15-19

C has rank one: sum_t R_t is factorised by Cholesky, and the inverse with C follows by the formula of Sherman and Morrison. Where
the squares S~_t lose too many digits beside the ridge, the singular triplets of the W~_t take their place.
A coefficient c_t multiplies S~_t and R_t everywhere; divided by the trace these are NAN with exponent 2, tensor by tensor.
One covariance is held at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt, Le

from nan_merge.core.parallel import stop_if_interrupted
from nan_merge.methods.context import COMPUTED, Array, TensorContext, namespace, negligible, scale_free
from nan_merge.methods.decompose import cholesky, identity, is_lossy, leading, product, quotients, solve_right
from nan_merge.methods.matrices import mean, of_matrices

TINY = 1e-12  # added to energies, traces and divisors, as in the paper's code
ROUNDING = 1e-12  # share of a task vector's norm that is rounding in float64 where all rows are equal

Switch = Literal["adaptive", "always", "never"]
Gamma = Literal["paper", "var_log", "cv_of_energy"]


@scale_free
@of_matrices
def ace(
    taus: Array,
    alpha: Sequence[float],
    context: TensorContext,
    *,
    epsilon: Annotated[float, Gt(0), "the ridge"] = 1e-5,
    epsilon_mode: Annotated[
        Literal["absolute", "relative"], "unit of the ridge: squared task vectors, or the mean trace over the width"
    ] = "absolute",
    threshold: Annotated[float, Ge(0), "gamma above which experts count as uneven, the paper's tau"] = 0.3,
    gamma: Annotated[Gamma, "measure of how uneven experts are"] = "paper",
    normalise: Annotated[Switch, "adaptive covariance normalisation"] = "adaptive",
    prior: Annotated[bool, "collective prior"] = True,
    refine: Annotated[Switch, "spectral refinement"] = "adaptive",
    k_frac: Annotated[float, Gt(0), Le(1), "share of directions that refinement adds"] = 0.3,
    centre: Annotated[bool, "subtract the mean row of each task vector"] = True,
    restore_mean: Annotated[Literal["none", "mean"], "mean row that is added to the result"] = "none",
) -> Array:
    """Merge T task vectors by the covariances that they imply (ACE-Merging, arXiv 2603.02945).

    (T, out, in) -> (out, in); equations 5 to 19 stand in the module's docstring. `adaptive` switches `normalise` and
    `refine` on where the spread of the experts, `gamma`, exceeds `threshold`. Centring removes every expert's mean row;
    `restore_mean: mean` adds the weighted mean of these rows.

    ASSUME: the prior is made of the weighted covariances. The default `epsilon`, 1e-5, is the paper's for most models by
    reading notes (unconfirmed: only the beginning of the paper was read), the published code's default is 1e-2.
    DIFFERS: an expert whose centred task vector is zero, or with c_t = 0, is left out and T counts the others; in the
    authors' code its ridge eps / 1e-12 dominates the result.
    """
    rows = [tau.sum(axis=0) / max(1, tau.shape[0]) for tau in taus]
    centred = [tau - row for tau, row in zip(taus, rows, strict=True)] if centre else list(taus)
    restored = 0 * taus[0] + (mean(rows, alpha) if centre and restore_mean == "mean" else 0)
    least = negligible(taus[0], ROUNDING, COMPUTED) ** 2
    used = [t for t, c in enumerate(alpha) if c != 0 and energy(centred[t]) > least * energy(taus[t])]
    if not used:
        return restored
    tildes, rows = [centred[t] for t in used], [rows[t] if centre else 0 * rows[t] for t in used]
    energies, traces = [energy(taus[t]) for t in used], [energy(tilde) + TINY for tilde in tildes]
    uneven = heterogeneity(energies, gamma) > threshold
    normalised, refined = (uneven if on == "adaptive" else on == "always" for on in (normalise, refine))
    weights = [alpha[t] / trace if normalised else alpha[t] for t, trace in zip(used, traces, strict=True)]
    ridge = epsilon * (np.mean(traces).item() / taus[0].shape[1] if epsilon_mode == "relative" else 1.0)
    share = 0.0 if not prior else 1 / (np.mean(energies).item() + TINY) if normalised else 1.0
    sigma, products, means = _sums(tildes, rows, weights)
    r = sigma + sum(weights) * ridge * identity(sigma)  # Eq. 10
    ridges = sum(weight * ridge * tilde for weight, tilde in zip(weights, tildes, strict=True))
    if min(weights) > 0 and is_lossy(r, sum(weights) * ridge / float(namespace(r).linalg.trace(r))):
        w_pre = _by_rows(tildes, weights, ridge, share)
    else:
        w_pre = _closed_form(products + ridges, r, share * sigma.sum(axis=0) / len(sigma))
    if refined:
        deltas = sum(tildes) + sum(rows)
        w_pre = w_pre + _refinement(w_pre + products + means - deltas @ (r / len(used)), k_frac)
    return restored + w_pre


def energy(matrix: Array) -> float:
    """Return the squared Frobenius norm: also the trace of matrix^T matrix."""
    return float((matrix * matrix).sum())


def heterogeneity(energies: Sequence[float], gamma: Gamma = "paper") -> float:
    """Return gamma, the spread of the energies |DW_t|^2 of T experts (Eq. 7); 0 for fewer than two.

    `paper` is Var(l) / mean(l)^2 of l_t = log |DW_t|^2, with the sample variance. It depends on the unit of the weights and
    grows without bound as the energies approach 1; `var_log`, Var(l), and `cv_of_energy`, standard deviation over mean of
    the energies, do not. Zero energies are left out.
    """
    moved = np.array([e for e in energies if e > 0])
    if len(moved) < 2:
        return 0.0
    if gamma == "cv_of_energy":
        return float((moved / moved.max()).std(ddof=1) / (moved / moved.max()).mean())  # squares of energies may overflow
    logs = np.log(moved + (TINY if gamma == "paper" else 0.0))
    variance = logs.var(ddof=1)
    return float(variance / (logs.mean() ** 2 + TINY) if gamma == "paper" else variance)


def _sums(tildes: Sequence[Array], rows: Sequence[Array], weights: Sequence[float]) -> tuple[Array, Array, Array]:
    """Return sum_t S~_t (in, in), sum_t W~_t S~_t (out, in) and sum_t m_t S~_t (in,), m_t the mean row: DW_t = W~_t + m_t."""
    sigma = products = means = 0.0
    for weight, tilde, row in zip(weights, tildes, rows, strict=True):
        stop_if_interrupted()
        part = weight * (tilde.T @ tilde)  # Eq. 8, 9
        sigma, products, means = sigma + part, products + tilde @ part, means + row @ part
    return sigma, products, means


def _closed_form(numerator: Array, r: Array, prior: Array) -> Array:
    """Return W_pre (out, in) of Eq. 14 from both sums; every row of C is `prior` (in,), Eq. 11-13."""
    if not (division := cholesky(r)):  # coefficients below zero
        return solve_right(numerator, r + prior)
    return _with_prior(division(numerator), division(prior[None])[0])


def _by_rows(tildes: Sequence[Array], weights: Sequence[float], ridge: float, share: float) -> Array:
    """Return W_pre (out, in) of Eq. 14 without squares, for weights above zero; `share` is the factor of the prior."""
    rows = [weight**0.5 * tilde for weight, tilde in zip(weights, tildes, strict=True)]
    parts = quotients(rows, sum(weights) * ridge, 0.0)
    solved = prior = 0.0
    for weight, tilde, row, part in zip(weights, tildes, rows, parts, strict=True):
        solved = solved + product(tilde, row.T, part) + ridge * weight**0.5 * part
        prior = prior + share / len(part.T) * (row.sum(axis=1) @ part)
    return _with_prior(solved, prior)


def _with_prior(solved: Array, prior: Array) -> Array:
    """Return B (R + C)^-1 (out, in) from B R^-1 and the row p R^-1 (in,), with every row of C p (Sherman and Morrison)."""
    return solved - solved.sum(axis=1)[:, None] * (prior[None] / (1 + prior.sum()))


def _refinement(fused: Array, k_frac: float) -> Array:
    """Return sigma U_k V_k^T, the leading directions at one strength (Eq. 17-19).

    U S V^T is W_pre + sum_t DW_t (S~_t - mean R) of Eq. 15-16, with the uncentred DW_t; sigma is the mean of the first k of S.
    ASSUME: k = floor(k_frac min(out, in)), but at least one; the paper's k is zero for a side of three or fewer.
    """
    k = max(1, int(k_frac * min(fused.shape)))
    u, s, vt = leading(fused, k)
    return s.sum() / k * (u @ vt)


COMBINE = {f.__name__: f for f in (ace,)}
