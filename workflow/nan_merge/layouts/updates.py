"""Tensors of a base with what an adapter changes, computed as they are read: factors, norms, biases, rows."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from nan_merge.checkpoints.safetensors_file import Tensor
from nan_merge.core import kernels
from nan_merge.core.blocks import SUM_TILE, spans


@dataclass
class LowRank(Tensor):
    """A tensor with a low-rank update: W + scale B A, with B (out, r) and A (r, in, ...).

    `transposed` adds the transpose of the product, for weights stored as (in, out). Every element is summed over the rank
    in order in float64, so it does not depend on the requested range. `module` is the name that the adapter has for it, and
    `embedding` whether its factors are those of a table.
    """

    base: Tensor
    a: Tensor
    b: Tensor
    scale: float
    transposed: bool
    module: str = ""
    embedding: bool = False

    def factors(self) -> tuple[np.ndarray, np.ndarray]:
        """Read scale B (out, r) and A (r, in), of more dimensions flattened, in float64."""
        rank = self.b.shape[1]
        b, a = (each.block(0, each.size).astype(np.float64) for each in (self.b, self.a))
        return self.scale * b.reshape(-1, rank), a.reshape(rank, -1)

    @property
    def square(self) -> float:
        """The squared Frobenius norm of scale B A, without the product.

            trace((B^T B) (A A^T)) = ||R S^T||^2 with B = Q R, A^T = P S,

        of which the right side keeps the digits that the squares of the left side lose where B A nearly cancels.
        """
        b, a = self.factors()
        with np.errstate(over="ignore", invalid="ignore"):  # which its reader refuses
            right, left = np.linalg.qr(b)[1], np.linalg.qr(a.T)[1]
            return float(((right @ left.T) ** 2).sum())

    def block(self, start: int, stop: int, buffer: np.ndarray | None = None) -> np.ndarray:
        """Compute the elements `start` to `stop`, flattened in C order, in the type of this tensor: (stop - start,)."""
        right, out = self._right(), self.space(stop - start, buffer)
        for first, last in spans(stop - start, SUM_TILE, start):
            out[first - start : last - start] = self._update(first, last, right) + self.base.block(first, last)
        return out

    def update(self, start: int, stop: int) -> np.ndarray:
        """Compute the elements `start` to `stop` of scale B A, flattened in C order, in float64: (stop - start,)."""
        right = self._right()
        return np.concatenate([self._update(first, last, right) for first, last in spans(stop - start, SUM_TILE, start)])

    def _update(self, start: int, stop: int, right: np.ndarray) -> np.ndarray:
        """Compute the elements `start` to `stop` of scale B A from the whole rows that contain them."""
        columns = right.shape[1]
        first, last = start // columns, -(-stop // columns)
        origin = first * columns
        if last - first == 1:  # inside one row
            right, origin = right[:, start - origin : stop - origin], start
        update = np.empty((last - first, right.shape[1]))
        kernels.product(self._left(first, last), right, update)  # not BLAS, whose order of summation depends on the shapes
        update = update.reshape(-1)[start - origin : stop - origin]
        update *= self.scale
        return update

    def _left(self, first: int, last: int) -> np.ndarray:
        """Read rows `first` to `last` of B, or of A transposed: (last - first, r), float64."""
        rank = self.b.shape[1]
        if not self.transposed:
            return self.b.block(first * rank, last * rank).astype(np.float64).reshape(-1, rank)
        width = self.a.shape[1]
        return np.stack([self.a.block(k * width + first, k * width + last).astype(np.float64) for k in range(rank)], axis=1)

    def _right(self) -> np.ndarray:
        """Read A, or B transposed: (r, columns), float64."""
        whole, rank = self.b if self.transposed else self.a, self.b.shape[1]
        values = whole.block(0, whole.size).astype(np.float64)
        return np.ascontiguousarray(values.reshape(-1, rank).T) if self.transposed else values.reshape(rank, -1)


@dataclass
class WithNorms(Tensor):
    """A weight W whose outputs have given norms: m W / ||W|| (DoRA, arXiv 2402.09353, eq. 5), with m (out,).

    The outputs are the first dimension, or the last for weights stored as (in, out) and tables (`transposed`). Norms are
    summed in float64, in pieces that do not depend on the requested range.
    """

    whole: Tensor
    norms: Tensor
    transposed: bool

    @functools.cached_property
    def factors(self) -> np.ndarray:
        """The factor of every output: (out,), float64."""
        columns = self.shape[-1] if self.transposed else math.prod(self.shape[1:])
        squares = []
        for start, stop in spans(self.size // columns, max(1, SUM_TILE // columns)):
            rows = self.whole.block(start * columns, stop * columns).astype(np.float64).reshape(-1, columns)
            squares.append((rows**2).sum(axis=0 if self.transposed else 1))
        found = np.sum(squares, axis=0) if self.transposed else np.concatenate(squares)
        with np.errstate(divide="ignore", invalid="ignore"):  # NaN where an output is zero, which its reader refuses
            return self.norms.block(0, self.norms.size).astype(np.float64) / np.sqrt(found)

    def block(self, start: int, stop: int, buffer: np.ndarray | None = None) -> np.ndarray:
        """Compute the elements `start` to `stop`, flattened in C order, in the type of this tensor: (stop - start,)."""
        outputs, out = np.arange(start, stop), self.space(stop - start, buffer)
        outputs = outputs % len(self.factors) if self.transposed else outputs // (self.size // len(self.factors))
        out[:] = self.whole.block(start, stop) * self.factors[outputs]
        return out


@dataclass
class Moved(Tensor):
    """A tensor with an update of its own shape: W + scale U."""

    base: Tensor
    update: Tensor
    scale: float

    def block(self, start: int, stop: int, buffer: np.ndarray | None = None) -> np.ndarray:
        """Compute the elements `start` to `stop`, flattened in C order, in the type of this tensor: (stop - start,)."""
        out = self.space(stop - start, buffer)
        out[:] = self.base.block(start, stop).astype(np.float64) + self.scale * self.update.block(start, stop).astype(np.float64)
        return out


@dataclass
class NewRows(Tensor):
    """A tensor (rows, columns) in which some rows are those of another one, (n, columns)."""

    base: Tensor
    rows: Tensor
    places: tuple[int, ...]  # of the new rows, in their order

    def block(self, start: int, stop: int, buffer: np.ndarray | None = None) -> np.ndarray:
        """Read the elements `start` to `stop`, flattened in C order, in the type of this tensor: (stop - start,)."""
        out, columns = self.space(stop - start, buffer), self.shape[1]
        out[:] = self.base.block(start, stop)
        for number, place in enumerate(self.places):
            first, last = max(start, place * columns), min(stop, (place + 1) * columns)
            if first < last:
                shift = (number - place) * columns
                out[first - start : last - start] = self.rows.block(first + shift, last + shift)
        return out


def low_rank(entry: Tensor) -> LowRank | None:
    """Return the low-rank update in a tensor, with or without norms; None for a tensor of another kind."""
    inner = entry.whole if isinstance(entry, WithNorms) else entry
    return inner if isinstance(inner, LowRank) else None
