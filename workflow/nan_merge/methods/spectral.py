"""`combine` operators on singular values: TSV-M, Iso-C, Iso-CTS, CART and DC-Merge.

Matrices are (out, in); a tensor that is not a matrix gets the mean.

DIFFERS: a matrix of less than full rank (a low-rank adapter, an unchanged tensor, equal experts side by side) has
arbitrary singular vectors. The public codes use them; here they are left out, so that a merge depends neither on the
library that computes it nor on the order of the experts. At full rank nothing changes.
DIFFERS: the authors' codes of TSV-M and the isotropic methods take tensors of two axes only, here a convolution over single
pixels is a matrix too. They leave out `text_projection` by name; so does `exclude` in the shipped methods.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from nan_merge.methods.context import COMPUTED, Array, TensorContext, length, namespace, negligible
from nan_merge.methods.decompose import Triplets, polar, triplets
from nan_merge.methods.matrices import Combine, mean, of_matrices, with_hyper_parameters

Scale = Annotated[float, Ge(0), "factor of every merged tensor, the papers' alpha"]


def _scaled(operator: Combine) -> Combine:
    """Add the hyper-parameter `scale`, a factor of every merged tensor, matrix or not."""

    def combine(taus: Array, alpha: Sequence[float], context: TensorContext, *, scale: float = 1.0, **values: object) -> Array:
        return scale * operator(taus, alpha, context, **values)

    return with_hyper_parameters(combine, operator, {"scale": (Scale, 1.0)})


def _side_by_side(parts: Sequence[Triplets]) -> Triplets:
    """Return the triplets of several matrices as those of one."""
    xp = namespace(parts[0][0])
    return xp.concat([p[0] for p in parts], axis=1), xp.concat([p[1] for p in parts]), xp.concat([p[2] for p in parts])


def _orthonormal(matrix: Array) -> Array:
    """Return the closest matrix with orthonormal columns (or rows, if it is wide); its null space stays null."""
    return polar(matrix, COMPUTED * length(matrix))[0]


def _mean(numbers: Array) -> float:
    return float(numbers.sum()) / max(len(numbers), 1)


def _weighted(taus: Sequence[Array], alpha: Sequence[float]) -> Iterator[Array]:
    return (c * tau for c, tau in zip(alpha, taus, strict=True))


@_scaled
@of_matrices
def tsv(taus: Array, alpha: Sequence[float], context: TensorContext) -> Array:
    """Concatenate the top singular triplets of all task vectors and orthonormalise both bases (TSV-M, arXiv 2412.00081).

    Algorithm 1: U S V^T of the first floor(min(m, n) / T) triplets of each c_t tau_t (m, n), with U and V replaced by their
    closest orthonormal factors.
    DIFFERS: a matrix with a side shorter than T gets the mean; in the paper it would stay at the base.
    """
    count = min(taus[0].shape) // len(taus)
    if count == 0:
        return mean(taus, alpha)
    u, s, vt = _side_by_side([triplets(part, count, length(part)) for part in _weighted(taus, alpha)])
    return (_orthonormal(u) * s) @ _orthonormal(vt)


@_scaled
@of_matrices
def iso_c(taus: Array, alpha: Sequence[float], context: TensorContext) -> Array:
    """Sum the task vectors and set all singular values of the sum to their mean (Iso-C, arXiv 2502.04959).

        mean(S) U V^T,    U S V^T = sum_t c_t tau_t

    ASSUME: the paper tunes `scale` on validation data (1.3 to 1.5 for CLIP); 1 is the method itself.
    """
    parts = list(_weighted(taus, alpha))
    factor, s = polar(sum(parts), sum(map(length, parts)))
    return _mean(s) * factor


@_scaled
@of_matrices
def iso_cts(
    taus: Array,
    alpha: Sequence[float],
    context: TensorContext,
    *,
    common: Annotated[float, Ge(0), Le(1), "share of the rank that the common subspace takes"] = 0.8,
) -> Array:
    """Replace the weakest directions of Iso-C by the strongest ones of each task outside the rest (Iso-CTS, arXiv 2502.04959).

    Of rank r, the top k left singular vectors U_k of the sum stay; each task adds the first (r - k) / T triplets of
    (I - U_k U_k^T) c_t tau_t; bases are orthonormalised, singular values set to their mean. As in the authors' code, k is
    floor(common r), moved until T divides r - k. ASSUME: `scale` as for `iso_c`.
    """
    rank, parts = min(taus[0].shape), list(_weighted(taus, alpha))
    own = min(round((rank - int(common * rank)) / len(parts)), rank // len(parts))
    shared = triplets(sum(parts), rank - own * len(parts), sum(map(length, parts)))
    outside = [part - shared[0] @ (shared[0].T @ part) for part in parts]
    spread = COMPUTED * rank**0.5  # what U_k lacks to be orthonormal lies in few directions
    added = [triplets(rest, own, spread * length(part)) for rest, part in zip(outside, parts, strict=True)]
    u, s, vt = _side_by_side([*added, shared])
    return (_orthonormal(u) * _mean(s)) @ _orthonormal(vt)


@of_matrices
def cart(
    taus: Array,
    alpha: Sequence[float],
    context: TensorContext,
    *,
    rank: Annotated[float, Gt(0), Le(1), "share of the singular values that is kept"] = 0.08,
    scale: Annotated[float, Ge(0), "factor of the low-rank residuals, the paper's lambda"] = 2.0,
) -> Array:
    """Add the low-rank parts of the experts' differences from the average to the average (CART, arXiv 2412.12153).

        avg + scale sum_t c_t SVD_k(tau_t - avg),    avg = sum_t c_t tau_t / T,  k = max(1, floor(rank min(m, n)))

    ASSUME: the paper has a rank of 8 % and tunes lambda on validation data. The released configurations for ViT-B/32 state
    pairs: rank 0.12 and lambda 2.0 for 8 tasks, 0.16 and 1.5 for 14, 0.32 and 1.9 for 20. The default, 0.08 and 2.0, is none.
    DIFFERS: the authors' code takes attention and MLP matrices, by their names; here all matrices, so `exclude` the others.
    """
    average, count = mean(taus, alpha), max(1, int(rank * min(taus[0].shape)))
    residuals = [(c, triplets(tau - average, count, 0.0)) for c, tau in zip(alpha, taus, strict=True)]
    return average + scale * sum(c * ((u * s) @ vt) for c, (u, s, vt) in residuals)


@_scaled
@of_matrices
def dc_merge(
    taus: Array,
    alpha: Sequence[float],
    context: TensorContext,
    *,
    smoothing: Annotated[Literal["none", "average", "linear"], "what singular values become: their mean, or a line"] = "none",
    ratio: Annotated[float, Ge(1), "largest ratio of the ends of that line, the paper's rho"] = 5.0,
    density: Annotated[float, Gt(0), Le(1), "share of the entries that each core keeps, the largest"] = 1e-3,
) -> Array:
    """Merge the cores of low-rank task vectors in one cover basis (DC-Merge, arXiv 2603.06242).

        U (B o ties(M_1, ..., M_T)) V^T,    M_t = U^T U_t S_t V_t^T V,  with k = floor(min(m, n) / T) triplets each

    U and V are the orthonormal factors of all U_t, V_t side by side; `ties` keeps the largest entries of every core and averages
    those with the sign of their sum; B keeps the T diagonal blocks (k, k). `smoothing` replaces the values of S_t at their sum.
    ASSUME: the paper was not read. The authors' code for fully fine-tuned models smooths nothing, that for adapters (k is their
    rank) takes `average` or `linear`; both choose `scale` on validation data.
    DIFFERS: entries as large as the smallest kept one are kept up to rounding; a matrix with a side shorter than T gets the mean.
    """
    count = min(taus[0].shape) // len(taus)
    if count == 0:
        return mean(taus, alpha)
    parts = [triplets(part, count, length(part)) for part in _weighted(taus, alpha)]
    u, _, vt = _side_by_side(parts)
    u, vt = _orthonormal(u), _orthonormal(vt)
    cores = [_strongest((u.T @ p) * _smoothed(s, smoothing, ratio) @ (q @ vt.T), density) for p, s, q in parts]
    total, size = sum(cores), sum(map(abs, cores))
    elected = total * (abs(total) > negligible(total, times=COMPUTED) * size)
    agreeing = [core * elected > 0 for core in cores]
    one = 0 * total + 1  # in the type of the cores
    number = sum(one * mask for mask in agreeing)
    merged = sum(core * mask for core, mask in zip(cores, agreeing, strict=True)) / (number + (number == 0))
    blocks = [slice(t * count, (t + 1) * count) for t in range(len(taus))]
    return sum(u[:, block] @ merged[block, block] @ vt[block] for block in blocks)


def _smoothed(s: Array, smoothing: str, ratio: float) -> Array:
    """Return singular values (k,) of the same sum: as they are, all equal, or falling along a line to 1 / ratio of the first."""
    if smoothing == "none":
        return s
    top, last = float(s[0]), float(s[-1])
    end = 1.0 if smoothing == "average" else min(ratio, top / last) if last else ratio
    line = end + (1 - end) * ((0 * s + 1).cumsum(0) - 1) / max(len(s) - 1, 1)
    return line * (s.sum() / line.sum())


def _strongest(core: Array, density: float) -> Array:
    """Keep the floor(density n), at least one, entries of largest magnitude, none that is rounding beside the largest."""
    sizes, least = namespace(core).sort(abs(core).reshape(-1)), negligible(core, times=COMPUTED)
    cut = float(sizes[-max(1, int(density * len(sizes)))]) * (1 - least)
    return core * (abs(core) >= max(cut, least * float(sizes[-1])))


COMBINE = {f.__name__: f for f in (tsv, iso_c, iso_cts, cart, dc_merge)}
