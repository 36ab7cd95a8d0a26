"""Tensors computed from other tensors as they are read, block by block, and checkpoints of such tensors."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nan_merge.checkpoints.checkpoint import Checkpoint
from nan_merge.checkpoints.safetensors_file import DTYPES, Tensor
from nan_merge.core.blocks import SUM_TILE, spans


def view(checkpoint: Checkpoint, entries: Mapping[str, Tensor]) -> Checkpoint:
    """Return a copy of the checkpoint with other entries; removed names leave their shards, empty shards are dropped."""
    other = copy.copy(checkpoint)
    other.entries = dict(entries)
    shards = {file: [name for name in names if name in entries] for file, names in checkpoint.shards.items()}
    other.shards = {file: names for file, names in shards.items() if names}
    return other


def equal(left: Tensor, right: Tensor) -> bool:
    """Return whether two tensors hold the same numbers; reading stops at the first tile that differs."""
    if left is right:
        return True
    if left.shape != right.shape:
        return False
    for start, stop in spans(left.size, SUM_TILE):
        a, b = left.block(start, stop), right.block(start, stop)
        if left.dtype != right.dtype:
            a, b = a.astype(np.float64), b.astype(np.float64)
        if not np.array_equal(a.view(np.uint8), b.view(np.uint8)):
            return False
    return True


@dataclass
class MeanRows(Tensor):
    """A tensor (rows, ...) extended to a larger shape by repeating its mean row."""

    first: Tensor

    @functools.cached_property
    def mean(self) -> np.ndarray:
        """The mean row, summed in float64 and rounded to the stored type: (columns,)."""
        rows, columns = self.first.shape[0], math.prod(self.first.shape[1:])
        total, step = np.zeros(columns), max(1, SUM_TILE // columns)
        for start, stop in spans(rows, step):
            block = self.first.block(start * columns, stop * columns)
            total += block.astype(np.float64).reshape(-1, columns).sum(axis=0)
        return (total / rows).astype(DTYPES[self.dtype])

    def block(self, start: int, stop: int, buffer: np.ndarray | None = None) -> np.ndarray:
        """Read the elements `start` to `stop`, flattened in C order, as stored: (stop - start,)."""
        end = self.first.size
        if stop <= end:
            return self.first.block(start, stop, buffer)
        out = self.space(stop - start, buffer)
        head = max(0, end - start)
        if head:
            out[:head] = self.first.block(start, end)
        out[head:] = self.mean[np.arange(start + head - end, stop - end) % len(self.mean)]
        return out


@dataclass
class FirstRows(Tensor):
    """The rows of a tensor, followed by those of a larger one that it lacks."""

    first: Tensor
    whole: Tensor

    @classmethod
    def of(cls, first: Tensor, whole: Tensor) -> FirstRows:
        """Make a tensor of the shape of `whole`, of a type that holds the numbers of both."""
        types = {first.dtype, whole.dtype}
        dtype = first.dtype if len(types) == 1 else "F64" if "F64" in types else "F32"
        return cls(dtype, whole.shape, first, whole)

    def block(self, start: int, stop: int, buffer: np.ndarray | None = None) -> np.ndarray:
        """Read the elements `start` to `stop`, flattened in C order, in the type of this tensor: (stop - start,)."""
        out, cut = self.space(stop - start, buffer), min(max(start, self.first.size), stop)
        if start < cut:
            out[: cut - start] = self.first.block(start, cut)
        if cut < stop:
            out[cut - start :] = self.whole.block(cut, stop)
        return out
