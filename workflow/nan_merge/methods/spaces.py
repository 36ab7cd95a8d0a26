"""`space` operators: coordinates of low-rank task vectors B_t A_t in bases that all experts share.

A method with a space preprocesses and combines the coordinates in place of the task vectors, and the merged coordinates are
multiplied by the bases again. Nothing is lost on the way: sums and other linear merges are the same in every space.
All is computed in float64 from QR decompositions of the factors; no product (out, in) is formed.

DIFFERS: the authors' codes leave out singular values below 1e-5 (KnOTS) or none (Core Space), here those that are negligible
beside the largest are zero; their vectors are arbitrary.
ASSUME: of both papers abstracts, figures and summaries were read, and the authors' codes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np

from nan_merge.methods.context import NEGLIGIBLE
from nan_merge.methods.decompose import svd

Pair = tuple[np.ndarray, np.ndarray]  # B (out, r_t) with its scale, and A (r_t, in), in float64
Shape = tuple[int, int]


@dataclass(frozen=True)
class Coordinates:
    """Matrices left @ block @ right (out, in) of T experts: left (out, p), blocks (p, q), right (q, in) or None for q = in."""

    left: np.ndarray
    blocks: Sequence[np.ndarray]
    right: np.ndarray | None = None

    def factors(self, block: np.ndarray) -> Pair:
        """Return the matrix of a block (p, q) as a product: (out, p), (p, in)."""
        return self.left, block if self.right is None else block @ self.right


def _shaped(shape: Callable[[int, int, Sequence[int]], Shape]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare the shape (p, q) of the blocks: `shape(out, in, ranks)` for the ranks of the experts' factors."""

    def mark(operator: Callable[..., Any]) -> Callable[..., Any]:
        operator.shape = shape  # type: ignore[attr-defined]
        return operator

    return mark


def _basis(matrix: np.ndarray) -> np.ndarray:
    """Return the left singular vectors of a matrix (n, r), zero where the singular value is negligible: (n, min(n, r))."""
    q, r = np.linalg.qr(matrix)
    u, s, _ = svd(r)
    return (q @ u) * (s > NEGLIGIBLE * s[0])


def full() -> None:
    """Leave the task vectors as they are: whole models and adapters."""


@_shaped(lambda out, into, ranks: (min(out, sum(min(rank, into) for rank in ranks)), into))
def knots(
    pairs: Sequence[Pair],
    *,
    singular_values: Annotated[Literal["basis", "blocks"], "where the singular values are while blocks are merged"] = "basis",
) -> Coordinates:
    """Decompose all B_t A_t side by side, and merge the blocks of the right singular vectors (KnOTS, arXiv 2410.19735).

        [B_1 A_1, ..., B_T A_T] = U S [V_1^T, ..., V_T^T],    merged: U S merge(V_1^T, ..., V_T^T)

    The released code merges S V_t^T: `singular_values: blocks`. Both give the same where every row is merged by itself, as in a
    sum, and not where rows are compared (`trim`) or a block is taken as a matrix (TSV-M, STAR). By QR: with
    [B_1, ..., B_T] = Q [R_1, ..., R_T] and A_t^T = P_t Z_t, U and S are those of Q [R_1 Z_1^T, ..., R_T Z_T^T].
    """
    q, r = np.linalg.qr(np.concatenate([b for b, _ in pairs], axis=1))
    rights = [np.linalg.qr(a.T) for _, a in pairs]
    ends = np.cumsum([b.shape[1] for b, _ in pairs])[:-1]
    parts = [left @ z.T for left, (_, z) in zip(np.split(r, ends, axis=1), rights, strict=True)]
    u, s, vt = svd(np.concatenate(parts, axis=1))
    real = s > NEGLIGIBLE * s[0]
    u, s, vt = u * real, s * real, vt * real[:, None]
    ends = np.cumsum([part.shape[1] for part in parts])[:-1]
    blocks = [v @ p.T for v, (p, _) in zip(np.split(vt, ends, axis=1), rights, strict=True)]
    if singular_values == "blocks":
        return Coordinates(q @ u, [s[:, None] * block for block in blocks])
    return Coordinates((q @ u) * s, blocks)


@_shaped(lambda out, into, ranks: (min(out, sum(ranks)), min(into, sum(ranks))))
def core(pairs: Sequence[Pair]) -> Coordinates:
    """Merge the cores U^T B_t A_t V in bases of all B and of all A (Core Space, arXiv 2509.17786).

        [B_1, ..., B_T] = U S_B W_B^T,    [A_1; ...; A_T] = W_A S_A V^T,    merged: U merge(U^T B_t A_t V) V^T

    ASSUME: the papers' adapters have the scale 1; here it belongs to B, so an expert counts in U as its product is long.
    """
    left = _basis(np.concatenate([b for b, _ in pairs], axis=1))
    right = _basis(np.concatenate([a for _, a in pairs]).T).T
    return Coordinates(left, [(left.T @ b) @ (a @ right.T) for b, a in pairs], right)


SPACES: dict[str, Callable[..., Any]] = {f.__name__: f for f in (full, knots, core)}


def bound(entry: str | Mapping[str, Any]) -> functools.partial[Any]:
    """Return the operator of a checked entry, `name` or `{name: {hyper-parameter: value}}`, with its hyper-parameters."""
    name, values = (entry, {}) if isinstance(entry, str) else next(iter(entry.items()))
    return functools.partial(SPACES[name], **(values or {}))
