"""Singular triplets, polar factors and linear systems of matrices, no more of them than is asked for; all in float64.

The Gram matrix of the short side has the squares of the singular values: its eigenvectors cost a third of a singular value
decomposition, and less where a matrix is long. Squares have half of the digits, so values below SMALL of the largest are
left to the decomposition itself.
"""

from __future__ import annotations

import numpy as np

from nan_merge.methods.context import NEGLIGIBLE, Array, namespace

SMALL = 1e-3  # share of the largest singular value: at it, the Gram matrix has lost six of sixteen digits
LONG = 1.5  # ratio of the sides from which all directions are tried by the Gram matrix; of a square one the last are too small

Triplets = tuple[Array, Array, Array]


def svd(matrix: Array) -> Triplets:
    """Return U, S, V^T of the economical singular value decomposition: (m, n) -> (m, r), (r,), (r, n), r = min(m, n)."""
    return namespace(matrix).linalg.svd(matrix, full_matrices=False)


def leading(matrix: Array, count: int) -> Triplets:
    """Return the first `count` singular triplets: (m, n) -> U (m, count), S (count,), V^T (count, n)."""
    if matrix.shape[0] < matrix.shape[1]:
        v, s, ut = leading(matrix.T, count)
        return ut.T, s, v.T
    xp, count = namespace(matrix), min(count, matrix.shape[1])
    if count and (count < matrix.shape[1] or _is_long(matrix)) and (found := _of_gram(matrix)):
        squares, vectors = found
        s, v = xp.sqrt(abs(xp.flip(squares, axis=0)[:count])), xp.flip(vectors, axis=1)[:, :count]
        if float(s[-1]) > SMALL * float(s[0]):
            return (matrix @ v) / s, s, v.T
    u, s, vt = svd(matrix)
    return u[:, :count], s[:count], vt[:count]


def polar(matrix: Array, size: float) -> Array:
    """Return the orthonormal factor U V^T of a matrix U S V^T: (m, n) -> (m, n).

    Directions whose singular value is negligible beside `size` are left out.
    """
    if matrix.shape[0] < matrix.shape[1]:
        return polar(matrix.T, size).T
    xp = namespace(matrix)
    if matrix.shape[1] and _is_long(matrix) and (found := _of_gram(matrix)):
        squares, vectors = found
        if float(squares[0]) > max(SMALL * float(squares[-1]), (NEGLIGIBLE * size) ** 2):
            return matrix @ ((vectors / xp.sqrt(squares)) @ vectors.T)
    u, s, vt = svd(matrix)
    return (u * (s > NEGLIGIBLE * size)) @ vt


def _of_gram(matrix: Array) -> tuple[Array, Array] | None:
    """Return eigenvalues, in ascending order, and eigenvectors of M^T M; None where squares are too large for a number."""
    xp = namespace(matrix)
    with np.errstate(over="ignore", invalid="ignore"):
        gram = matrix.T @ matrix
    return xp.linalg.eigh(gram) if bool(xp.all(xp.isfinite(gram))) else None


def _is_long(matrix: Array) -> bool:
    return bool(matrix.shape[0] >= LONG * matrix.shape[1])


def solve_right(numerator: Array, denominator: Array) -> Array:
    """Return numerator times the inverse of the square `denominator`, by LU; by its pseudo-inverse where it is singular.

    (m, n), (n, n) -> (m, n). LU counts as failed where it raises, or where its result is not finite.
    """
    xp = namespace(numerator)
    try:
        solution = xp.linalg.solve(denominator.T, numerator.T).T
        if bool(xp.all(xp.isfinite(solution))):
            return solution
    except (np.linalg.LinAlgError, RuntimeError):  # NumPy's error and torch's
        pass
    return numerator @ xp.linalg.pinv(denominator)
