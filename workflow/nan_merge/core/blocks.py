"""What every stage agrees on about tensors: cells and chunks, seeds, types. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

SUM_TILE = 1 << 15  # elements whose squares are summed together
WORK_UNIT = 1 << 21  # elements that a thread takes at once, whole cells; the unit of the digests of inputs
COMPUTE_TILE = 1 << 20  # elements that a thread computes at once, over all models: more experts need no more memory
LAYER_RE = re.compile(r"^(.*?\b(?:layers?|blocks?|resblocks|h)\.)(\d+)\.")  # names in a block: its stack, its number


def spans(size: int, step: int, origin: int = 0) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of the steps of `size` elements that start at `origin`."""
    for start in range(origin, origin + size, step):
        yield start, min(start + step, origin + size)


def step_for(models: int) -> int:
    """Return how many elements of each of several models are computed at once: whole cells."""
    return max(1, COMPUTE_TILE // models // SUM_TILE) * SUM_TILE


def compute_type(stored: str) -> np.dtype:
    """Return the type that a stored type is computed in: float32 for 16 bits and fewer, float64 for more."""
    return np.dtype(np.float64 if stored in ("F64", "F32") else np.float32)
