"""The methods that take matrices apart as their papers write them, in torch and in the type of the task vectors (float32).

Every function takes T task vectors (out, in) and returns the merged one. Nothing here imports the library.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Taus = Sequence[Tensor]


def svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the economical singular value decomposition U, S, V^T."""
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    return u, s, vt


def orthonormal(matrix: Tensor) -> Tensor:
    """Return the closest matrix with orthonormal rows or columns."""
    u, _, vt = svd(matrix)
    return u @ vt


def tsv_m(taus: Taus) -> Tensor:
    """Merge by TSV-M (arXiv 2412.00081, Algorithm 1)."""
    count = min(taus[0].shape) // len(taus)
    parts = [svd(tau) for tau in taus]
    u, vt = torch.cat([u[:, :count] for u, _, _ in parts], 1), torch.cat([vt[:count] for _, _, vt in parts])
    return orthonormal(u) @ torch.diag(torch.cat([s[:count] for _, s, _ in parts])) @ orthonormal(vt)


def iso_c(taus: Taus) -> Tensor:
    """Merge by Iso-C (arXiv 2502.04959, Algorithm 1)."""
    u, s, vt = svd(sum(taus[1:], taus[0]))
    return s.mean() * u @ vt


def cart(taus: Taus, rank: float = 0.08, scale: float = 2.0) -> Tensor:
    """Merge by CART (arXiv 2412.12153)."""
    average = sum(taus[1:], taus[0]) / len(taus)
    count = max(1, int(rank * min(average.shape)))
    merged = average
    for tau in taus:
        u, s, vt = svd(tau - average)
        merged = merged + scale * u[:, :count] @ torch.diag(s[:count]) @ vt[:count]
    return merged


def actmat(taus: Taus) -> Tensor:
    """Merge by ACTMat (arXiv 2604.01329): RegMean with tau^T tau as covariances."""
    covariances = [tau.T @ tau for tau in taus]
    numerator = sum(tau @ covariance for tau, covariance in zip(taus, covariances, strict=True))
    return numerator @ torch.linalg.pinv(torch.stack(covariances).sum(0))


def ace(taus: Taus, epsilon: float = 1e-5, k_frac: float = 0.3) -> Tensor:
    """Merge by ACE-Merging (arXiv 2603.02945, Eq. 5-19) where experts are uneven."""
    tildes = [tau - tau.mean(0) for tau in taus]
    traces = [(tilde * tilde).sum() for tilde in tildes]
    shares = [tilde.T @ tilde / trace for tilde, trace in zip(tildes, traces, strict=True)]
    eye = torch.eye(len(shares[0]), dtype=taus[0].dtype, device=taus[0].device)
    ridged = [share + epsilon / trace * eye for share, trace in zip(shares, traces, strict=True)]
    total = torch.stack(ridged).sum(0)
    prior = torch.stack(shares).sum(0).mean(0) / torch.stack([(tau * tau).sum() for tau in taus]).mean()
    numerator = torch.stack([tilde @ r for tilde, r in zip(tildes, ridged, strict=True)]).sum(0)
    merged = numerator @ torch.linalg.inv(total + prior)
    fused = merged + torch.stack([tau @ (s - total / len(taus)) for tau, s in zip(taus, shares, strict=True)]).sum(0)
    u, s, vt = svd(fused)
    k = int(k_frac * len(s))
    return merged + s[:k].mean() * u[:, :k] @ vt[:k]


METHODS = {f.__name__: f for f in (tsv_m, iso_c, cart, actmat, ace)}
