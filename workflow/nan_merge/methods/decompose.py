"""Singular triplets, polar factors and linear systems of matrices, no more of them than is asked for.

The Gram matrix of the short side has the squares of the singular values: its eigenvectors cost half of a singular value
decomposition, and less where a matrix is long. Squares have half of the digits, so small values (`clear`) are taken from the
Gram matrix of what the larger ones leave.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from array_api_compat import device, is_numpy_array

from nan_merge.methods.context import NEGLIGIBLE, Array, namespace, negligible, unit

LOST = 1e-4  # share of a number that squares may lose
SMALL = 1e-4  # share of the largest eigenvalue: at it, the Gram matrix has lost four of sixteen digits in float64
FIRM = 1e-6  # share of the largest eigenvalue below which a matrix is not left to Cholesky where eigenvalues may count as zero
POWERS, MARGIN = 16, 1.25  # steps of a power iteration, and what its estimate is multiplied by for a bound
Triplets = tuple[Array, Array, Array]
Spectrum = tuple[Array, Array]  # singular values (n,) in descending order, and right singular vectors (n, n)
Division = Callable[[Array], Array]  # B (m, n) -> B A^-1, with a factorisation of A (n, n) that all B share


def svd(matrix: Array) -> Triplets:
    """Return U, S, V^T of the economical singular value decomposition: (m, n) -> (m, r), (r,), (r, n), r = min(m, n)."""
    return namespace(matrix).linalg.svd(matrix, full_matrices=False)


def leading(matrix: Array, count: int) -> Triplets:
    """Return the first `count` singular triplets: (m, n) -> U (m, count), S (count,), V^T (count, n)."""
    count = min(count, *matrix.shape)
    found = triplets(matrix, count, 0.0)
    if not count or float(found[1][-1]) > 0:
        return found
    u, s, vt = svd(matrix)  # directions of rounding, which are arbitrary
    return u[:, :count], s[:count], vt[:count]


def triplets(matrix: Array, count: int, size: float) -> Triplets:
    """Return the first singular triplets, zero where the singular value is negligible beside `size` or the largest one.

    (m, n) -> U (m, count), S (count,), V^T (count, n); at most min(m, n) of them.
    """
    if matrix.shape[0] < matrix.shape[1]:
        v, s, ut = triplets(matrix.T, count, size)
        return ut.T, s, v.T
    count = min(count, matrix.shape[1])
    if count and (spectrum := _spectrum(matrix)):
        return _deflated(matrix, spectrum, count, _least(matrix, size, float(spectrum[0][0])))
    u, s, vt = svd(matrix)
    real = s[:count] > _least(matrix, size)
    return u[:, :count] * real, s[:count] * real, vt[:count] * real[:, None]


def polar(matrix: Array, size: float) -> tuple[Array, Array]:
    """Return the orthonormal factor U V^T of a matrix U S V^T, and S: (m, n) -> (m, n), (min(m, n),).

    Directions whose singular value is negligible beside `size` are left out; their value is 0.
    """
    if matrix.shape[0] < matrix.shape[1]:
        factor, s = polar(matrix.T, size)
        return factor.T, s
    if matrix.shape[1] and (spectrum := _spectrum(matrix)):
        s, v = spectrum
        if float(s[-1]) > max(clear(matrix, SMALL) ** 0.5 * float(s[0]), _least(matrix, size)):
            return matrix @ ((v / s) @ v.T), s
        u, s, vt = _deflated(matrix, spectrum, len(s), _least(matrix, size, float(s[0])))
        return u @ vt, s
    u, s, vt = svd(matrix)
    real = s > _least(matrix, size)
    return (u * real) @ vt, s * real


def _least(matrix: Array, size: float, largest: float = 0.0) -> float:
    """Return the singular value below which others are rounding, of a matrix computed from numbers of the Frobenius norm `size`.

    Rounding of all entries is spread over all directions.
    """
    spread = max(largest, size / max(1, min(matrix.shape)) ** 0.5)
    return max(NEGLIGIBLE * max(size, largest), negligible(matrix, 0.0) * spread)


def _deflated(matrix: Array, spectrum: Spectrum | None, count: int, least: float) -> Triplets:
    """Return the first `count` triplets of a matrix (m, n), m >= n, zero where the value is not above `least`.

    Those whose squares are `clear` are of its Gram matrix, with the `spectrum`, the others those of what lies outside.
    """
    if not count or spectrum is None or not float(spectrum[0][0]) > least:
        return 0 * matrix[:, :count], 0 * matrix[0, :count], 0 * matrix[:count]
    xp, (s, v) = namespace(matrix), spectrum
    kept = min(count, int((s > max(clear(matrix, SMALL) ** 0.5 * float(s[0]), least)).sum()))
    s, v, others = s[:kept], v[:, :kept], v[:, kept:]
    u = (matrix @ v) / s
    if kept == count:
        return u, s, v.T
    rest = matrix @ others
    rest = rest - u @ (u.T @ rest)
    below_u, below_s, below_vt = _deflated(rest, _spectrum(rest), count - kept, least)
    return xp.concat([u, below_u], axis=1), xp.concat([s, below_s]), xp.concat([v.T, below_vt @ others.T])


def _spectrum(matrix: Array) -> Spectrum | None:
    """Return singular values and right singular vectors of a matrix (m, n), m >= n, by its Gram matrix.

    None for a zero matrix, and where squares leave the range of a number.
    """
    xp = namespace(matrix)
    least = float(xp.finfo(matrix.dtype).smallest_normal) / unit(matrix) ** 2  # below it, small squares lose their digits
    with np.errstate(over="ignore", invalid="ignore"):
        gram = matrix.T @ matrix
    if not least < float(xp.linalg.trace(gram)) < np.inf:
        return None
    squares, vectors = xp.linalg.eigh(gram)
    return xp.sqrt(abs(xp.flip(squares, axis=0))), xp.flip(vectors, axis=1)


def clear(matrix: Array, share: float) -> float:
    """Return the larger of `share` and the share of the largest eigenvalue at which squares lose LOST in the type of a matrix."""
    return max(share, unit(matrix) / LOST)


def is_lossy(matrix: Array, share: float) -> bool:
    """Return whether a division by a Gram matrix loses more than LOST, if eigenvalues count down to `share` of the largest."""
    return clear(matrix, share) > share and not is_above(matrix, clear(matrix, share))


def quotients(rows: Sequence[Array], ridge: float, cutoff: float) -> list[Array]:
    """Return R_t (sum_s R_s^T R_s + ridge)^-1 of T matrices R_t (m, n) without squares: by the triplets of all in one column.

    Eigenvalues of sum_s R_s^T R_s below the share `cutoff` of the largest count as zero.
    """
    u, s, vt = triplets(namespace(rows[0]).concat(list(rows)), rows[0].shape[1], 0.0)
    kept = s > cutoff**0.5 * s[0]
    size = s + ~kept
    right = (kept / (size + ridge / size))[:, None] * vt
    return [u[t * len(row) : (t + 1) * len(row)] @ right for t, row in enumerate(rows)]


def product(*matrices: Array) -> Array:
    """Return the product of matrices, in the cheapest order."""
    return namespace(matrices[0]).linalg.multi_dot(matrices)


def times_gram(left: Array, gram: Array, rows: Array | None) -> Array:
    """Return left G in the cheaper order, where `rows` R (m, n) are given and G = R^T R: (k, n), (n, n) -> (k, n)."""
    if rows is not None and 2 * rows.shape[0] < rows.shape[1]:
        return (left @ rows.T) @ rows
    return left @ gram


def divide_by(matrix: Array, cutoff: float | None = None) -> Division:
    """Return the division of matrices B (m, n) by a symmetric A (n, n), from the right; by Cholesky where A allows it.

    Without a `cutoff`, A that is not positive definite is left to `solve_right`. With one, eigenvalues below that share of the
    largest count as zero; the pseudo-inverse is taken unless certainly none does and A is well-conditioned (FIRM).
    """
    if (cutoff is None or is_above(matrix, max(cutoff, clear(matrix, FIRM)))) and (division := cholesky(matrix)):
        return division
    if cutoff is None:
        return partial(solve_right, denominator=matrix)
    inverse = namespace(matrix).linalg.pinv(matrix, rtol=cutoff, hermitian=True)
    return lambda b: b @ inverse


def cholesky(matrix: Array) -> Division | None:
    """Return the division by a symmetric A (n, n), or None.

    None where A is not positive definite, or a pivot is rounding beside the largest one.
    """
    from scipy.linalg import cho_factor, cho_solve  # here, since a dry run reads methods without SciPy

    xp, on_host = namespace(matrix), is_numpy_array(matrix)
    try:
        factor = cho_factor(matrix.T, check_finite=False)[0] if on_host else xp.linalg.cholesky(matrix)
    except (np.linalg.LinAlgError, RuntimeError):  # NumPy's error and torch's
        return None
    pivots = xp.linalg.diagonal(factor)
    if not float(xp.min(pivots)) ** 2 > len(matrix) * unit(matrix) * float(xp.max(pivots)) ** 2:
        return None

    def division(b: Array) -> Array:
        if len(b) > 2 * len(matrix):  # a product is faster than the solution of as many systems
            return b @ division(identity(matrix))
        solved = cho_solve((factor, False), b.T, check_finite=False) if on_host else xp.cholesky_solve(b.T, factor)
        return solved.T

    return division


def is_above(matrix: Array, share: float) -> bool:
    """Return whether all eigenvalues of a symmetric A (n, n) are certainly more than `share` of the largest.

    The smallest exceeds s t where A - s t has a Cholesky factorisation, the largest is at most t where t - A has one; t is
    estimated by a power iteration.
    """
    xp, eye = namespace(matrix), identity(matrix)
    vector = xp.linalg.diagonal(matrix)
    if not (scale := float(xp.max(vector))) > 0:
        return False
    vector = vector / scale
    for _ in range(POWERS):  # by the scale, since squares of numbers may overflow
        vector = (matrix @ (vector / xp.linalg.vector_norm(vector))) / scale
    top = MARGIN * scale * float(xp.linalg.vector_norm(vector))
    return bool(cholesky(matrix - share * top * eye) and cholesky(top * eye - matrix))


def identity(like: Array) -> Array:
    """Return the identity (n, n) for a matrix of n rows."""
    return namespace(like).eye(len(like), dtype=like.dtype, device=device(like))


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
