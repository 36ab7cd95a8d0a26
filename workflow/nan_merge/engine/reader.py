"""Read models piece by piece, and convert between the type of storage and the type of computation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from nan_merge.checkpoints.checkpoint import Checkpoint
from nan_merge.checkpoints.safetensors_file import NAMES
from nan_merge.core import kernels
from nan_merge.core.blocks import SUM_TILE, compute_type, spans, step_for
from nan_merge.core.errors import UserError
from nan_merge.core.progress import Progress, no_progress
from nan_merge.layouts.unify import Chunk
from nan_merge.layouts.updates import LowRank

BFLOAT16, FLOAT32, FLOAT64 = np.dtype(ml_dtypes.bfloat16), np.dtype(np.float32), np.dtype(np.float64)


class Reader:
    """Read the same piece of several models of one layout together, into buffers of one thread."""

    def __init__(self, checkpoints: Sequence[Checkpoint], progress: Progress = no_progress, step: int | None = None) -> None:
        self.checkpoints, self.progress, self.step = checkpoints, progress, step or step_for(len(checkpoints))
        self.buffers = np.empty((len(checkpoints), 8 * self.step), np.uint8)  # unused pages take no memory
        self.wide: dict[np.dtype, np.ndarray] = {}

    def pieces(self, name: str, start: int, stop: int, digests: Sequence[Any] = ()) -> Iterator[tuple[int, list[np.ndarray]]]:
        """Yield (first element, values (n,) of every model as stored) for the pieces of a chunk of a tensor.

        Each piece overwrites the one before. `digests`, one a model, are updated with the bytes read.
        """
        tensors = [checkpoint.entries[name] for checkpoint in self.checkpoints]
        for first, last in spans(stop - start, self.step, start):
            stored = []
            for t, (tensor, buffer) in enumerate(zip(tensors, self.buffers, strict=True)):
                stored.append(tensor.block(first, last, buffer))
                if digests:
                    digests[t].update(stored[t].view(np.uint8))  # at once, while it is in the cache
            self.progress(sum(block.nbytes for block in stored))
            yield first, stored

    def task_vectors(self, name: str, first: int, stored: Sequence[np.ndarray]) -> np.ndarray:
        """Return theta_0 and the task vectors of one piece in the type of computation: (models, n).

        The buffer is overwritten by the next piece.
        Raises UserError for NaN and infinity.
        """
        dtype, size = compute_type(self.checkpoints[0].entries[name].dtype), len(stored[0])
        if dtype not in self.wide:
            self.wide[dtype] = np.empty(len(stored) * self.step, dtype)
        values = self.wide[dtype][: len(stored) * size].reshape(len(stored), size)
        finite = [widen(stored[0], values[0])]
        finite += [subtract(block, values[0], row) for block, row in zip(stored[1:], values[1:], strict=True)]
        if not all(finite):
            raise self.blame(name, first, stored)
        return values

    def whole(
        self, name: str, chunks: Sequence[Chunk], digests: Sequence[Sequence[Any]], dtype: np.dtype = FLOAT64
    ) -> np.ndarray:
        """Return theta_0 and the task vectors of a tensor, all its chunks, in `dtype`: (models, *shape), a scalar as (1,).

        That of an adapter is its product B A, not the difference of rounded weights, whose rounding has directions of its own.
        """
        entry, *tuned = [checkpoint.entries[name] for checkpoint in self.checkpoints]
        values = np.empty((len(self.checkpoints), entry.size), dtype)
        updates = {t: each for t, each in enumerate(tuned, 1) if isinstance(each, LowRank) and each.base is entry}
        for chunk, digest in zip(chunks, digests, strict=True):
            for first, stored in self.pieces(*chunk, digest):
                last = first + len(stored[0])
                values[:, first:last] = self.task_vectors(name, first, stored)
                for t, update in updates.items():
                    values[t, first:last] = update.update(first, last)
        return values.reshape(len(values), *(entry.shape or (1,)))

    def blame(self, name: str, first: int, stored: Sequence[np.ndarray]) -> UserError:
        """Return the error for the first NaN or infinity of a piece: model, tensor and index."""
        for checkpoint, block in zip(self.checkpoints, stored, strict=True):
            index = first_not_finite(block)
            if index is not None:
                return UserError(
                    f"{checkpoint.folder}: tensor '{name}' holds {block[index]} at flat index {first + index}; expected"
                    " finite numbers, since a merge spreads them. Train or fetch this checkpoint again"
                )
        raise AssertionError(f"all numbers of '{name}' from {first} on are finite")


def for_kernels(stored: Sequence[np.ndarray]) -> list[np.ndarray] | None:
    """Return arrays of one type as kernels take them, bfloat16 as its bits; None for several types, and one without a kernel."""
    types = {block.dtype for block in stored}
    if types == {BFLOAT16}:
        return [block.view(np.uint16) for block in stored]
    return list(stored) if types == {FLOAT32} else None


def widen(stored: np.ndarray, out: np.ndarray) -> bool:
    """Write stored values (n,) of any type into `out` (n,), float32 or float64; return whether all are finite."""
    if stored.dtype == BFLOAT16 and out.dtype == FLOAT32:
        return kernels.widen_bfloat16(stored.view(np.uint16), out)
    if stored.dtype == FLOAT32 and out.dtype == FLOAT64:
        return kernels.widen_float32(stored, out)
    out[:] = stored
    return bool(np.isfinite(out).all())


def subtract(stored: np.ndarray, theta: np.ndarray, out: np.ndarray) -> bool:
    """Write stored - theta (n,) into `out` (n,), of theta's type; return whether all stored values are finite."""
    if theta.dtype == FLOAT32 and stored.dtype == BFLOAT16:
        return kernels.subtract_bfloat16(stored.view(np.uint16), theta, out)
    if theta.dtype == FLOAT64 and stored.dtype == FLOAT32:
        return kernels.subtract_float32(stored, theta, out)
    finite = widen(stored, out)
    out -= theta
    return finite


def add(theta: np.ndarray, tau: np.ndarray, out: np.ndarray) -> bool:
    """Write theta + tau (n,) into `out` (n,), rounded once to its type, to nearest even; return whether all are finite."""
    if theta.dtype == FLOAT32 and out.dtype == BFLOAT16:
        return kernels.add_to_bfloat16(theta, tau, out.view(np.uint16))
    if theta.dtype == FLOAT64 and out.dtype == FLOAT32:
        return kernels.add_to_float32(theta, tau, out)
    out[:] = theta + tau
    return first_not_finite(out) is None


def convert(stored: np.ndarray, out: np.ndarray) -> int | None:
    """Write stored values (n,) into `out` (n,) of another type; return the index of the first finite one that it cannot hold."""
    with np.errstate(over="ignore", invalid="ignore"):
        out[:] = stored.astype(compute_type(NAMES[stored.dtype]))
    if first_not_finite(out) is None:
        return None
    lost = np.isfinite(stored.astype(np.float64)) & ~np.isfinite(out.astype(np.float64))
    return int(np.argmax(lost)) if lost.any() else None


def sums_of_squares(stored: Sequence[np.ndarray]) -> np.ndarray:
    """Return the sums of squares of weights and of weights - base of every tile, in float64: (T, tiles, 2).

    `stored` are the values (n,) of the base and of T experts. The sum of a tile with NaN or infinity is not finite.
    """
    sums = np.empty((len(stored) - 1, -(-len(stored[0]) // SUM_TILE), 2))
    if (blocks := for_kernels(stored)) is not None:
        for first, last in spans(len(blocks) - 1, kernels.MODELS - 1):
            kernels.squares((blocks[0], *blocks[1 + first : 1 + last]), SUM_TILE, sums[first:last])
        return sums
    for number, (start, stop) in enumerate(spans(len(stored[0]), SUM_TILE)):
        theta, *experts = (block[start:stop].astype(np.float64) for block in stored)
        sums[:, number] = [(np.sum(weights * weights), np.sum((weights - theta) ** 2)) for weights in experts]
    return sums


def squares_of(vectors: np.ndarray) -> np.ndarray:
    """Return the sums of squares of every tile of T vectors (T, n) in float64, added as in `sums_of_squares`: (T, tiles)."""
    sums = np.empty((len(vectors), -(-vectors.shape[1] // SUM_TILE), 2))
    for vector, tiles in zip(vectors, sums, strict=True):
        kernels.squares((vector, vector), SUM_TILE, tiles[None])
    return sums[:, :, 0]


def first_not_finite(stored: np.ndarray) -> int | None:
    """Return the index of the first NaN or infinity among stored values (n,), or None."""
    if stored.dtype == BFLOAT16:
        bad = (stored.view(np.uint16) & 0x7F80) == 0x7F80
    else:
        bad = ~np.isfinite(stored if stored.dtype.kind == "f" else stored.astype(np.float32))
    return int(np.argmax(bad)) if bad.any() else None
