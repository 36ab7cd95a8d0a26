"""A `combine` operator on rotations of the weights' inputs: OrthoMerge. Matrices are (out, in)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from array_api_compat import device

from nan_merge.core.parallel import stop_if_interrupted
from nan_merge.methods.context import Array, TensorContext, length, namespace, negligible, of_weights
from nan_merge.methods.decompose import solve_right, svd
from nan_merge.methods.matrices import mean, of_matrices


@of_weights
@of_matrices
def orthomerge(
    taus: Array,
    alpha: Sequence[float],
    context: TensorContext,
    *,
    rotate: Annotated[Literal["all", "conflicts"], "rows of the weights that rotations are fitted to"] = "all",
) -> Array:
    """Merge the rotations of the base in the Lie algebra, and what they leave by the mean (OrthoMerge, arXiv 2602.05943).

        W_0 Cay(A) + sum_t c_t (W_t - W_0 R_t) / T,    R_t = argmin |W_0 R - W_t| over rotations, R_t = Cay(A_t),
        A = a sum_t c_t A_t / |sum_t c_t A_t|,         a = sum_t c_t |A_t| / sum_t c_t,   Cay(A) = (I - A)^-1 (I + A)

    `rotate: conflicts` fits R_t to the rows of the task vector that have a negative cosine with the mean of all, and to the base
    elsewhere (OrthoMerge-C; the default is G).
    ASSUME: what rotations leave is averaged; the authors' scripts multiply their sum by 0.2, with five experts.
    DIFFERS: inputs that weights leave open are rotated as little as possible, a reflection of the weakest is undone (it has no
    A), and an expert that equals the base has no rotation; the authors' code has arbitrary ones. Other tensors get the mean.
    """
    base, average = context.base, mean(taus, [1.0] * len(taus))
    generators, leftover = [], []
    for tau in taus:
        stop_if_interrupted()
        fitted = tau * ((tau * average).sum(axis=1)[:, None] < 0) if rotate == "conflicts" else tau
        generators.append(_generator(base, base + fitted))
        leftover.append(tau - _turned(base, generators[-1]))
    total = sum(c * generator for c, generator in zip(alpha, generators, strict=True))
    lengths, found = [length(generator) for generator in generators], length(total)
    wanted = sum(c * size for c, size in zip(alpha, lengths, strict=True)) / (sum(alpha) or 1.0)
    some = found > negligible(base) * sum(abs(c) * size for c, size in zip(alpha, lengths, strict=True))
    return mean(leftover, alpha) + _turned(base, total * (wanted / found if some else 0.0))


def _identity(like: Array) -> Array:
    """Return the identity (n, n) for matrices (m, n)."""
    return namespace(like).eye(like.shape[1], dtype=like.dtype, device=device(like))


def _turned(base: Array, generator: Array) -> Array:
    """Return W_0 Cay(A) - W_0: Cay(A) - I is 2 A (I - A)^-1."""
    return solve_right(2 * (base @ generator), _identity(base) - generator)


def _generator(base: Array, target: Array) -> Array:
    """Return the skew A (n, n) whose rotation Cay(A) takes the base (m, n) closest to the target."""
    if not bool((base != target).any()):
        return 0 * _identity(base)
    xp = namespace(base)
    if 2 * base.shape[0] < base.shape[1]:  # nothing turns but what the rows of both span
        rows = xp.linalg.qr(xp.concat([base, target - base]).T)[0]
        return rows @ _generator(base @ rows, target @ rows) @ rows.T
    u, s, vt = svd(base.T @ target)
    real = int((s > negligible(s) * s[0]).sum())
    if real < len(s):  # inputs that the weights leave open: as near to the identity as can be
        inner_u, _, inner_vt = svd(u[:, real:].T @ vt[real:].T)
        u = xp.concat([u[:, :real], u[:, real:] @ inner_u], axis=1)
        vt = xp.concat([vt[:real], inner_vt @ vt[real:]])
    rotation = u @ vt
    if float(xp.linalg.det(rotation)) < 0:
        rotation = rotation - 2 * u[:, -1:] @ vt[-1:]
    eye = _identity(base)
    generator = solve_right(rotation - eye, rotation + eye)
    return (generator - generator.T) / 2


COMBINE = {f.__name__: f for f in (orthomerge,)}
