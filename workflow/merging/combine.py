"""Words of the slot `combine`: T task vectors and T coefficients in, the merged task vector out: (T, n), (T,) -> (n,).

Written in operators that NumPy and torch share, summed in the order of the experts and without BLAS, so that the
bytes do not depend on threads.
"""

from __future__ import annotations

from collections.abc import Sequence

from merging.tensors import Array, Site


def _sum(terms: Sequence[Array]) -> Array:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def weighted_sum(taus: Sequence[Array], alpha: Sequence[float], site: Site) -> Array:
    """Return sum_t c_t tau_t (task arithmetic, arXiv 2212.04089; weight averaging with c_t = 1 / T)."""
    return _sum([c * tau for c, tau in zip(alpha, taus, strict=True)])


def _agreeing(taus: Sequence[Array], alpha: Sequence[float], elect: str) -> tuple[list[Array], list[Array]]:
    """Return the weighted task vectors and the masks of entries that have the elected sign.

    DIFFERS: where the elected sum is exactly zero, the sign is plus; the TIES code takes the model's majority sign.
    """
    weighted = [c * tau for c, tau in zip(alpha, taus, strict=True)]
    elected = _sum(weighted if elect == "weighted" else list(taus)) >= 0
    return weighted, [((w > 0) & elected) | ((w < 0) & ~elected) for w in weighted]


def disjoint_sum(taus: Sequence[Array], alpha: Sequence[float], site: Site, *, elect: str = "weighted") -> Array:
    """Sum the weighted entries that agree with the elected sign (TIES as in the tables of NAN and AdaMerging).

    ASSUME: NAN (arXiv 2505.16148) leaves open whether signs are elected before or after weighting; `elect` is
    `weighted` or `unweighted`.
    """
    weighted, masks = _agreeing(taus, alpha, elect)
    return _sum([w * m for w, m in zip(weighted, masks, strict=True)])


def disjoint_mean(
    taus: Sequence[Array], alpha: Sequence[float], site: Site, *, elect: str = "weighted", divide_by: str = "count"
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


COMBINE = {f.__name__: f for f in (weighted_sum, disjoint_sum, disjoint_mean)}
