"""Constants and helpers for processing tensors block by block: tile sizes, ranges, compute types."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

SUM_TILE = 1 << 15  # elements of one partial sum of squares
WORK_UNIT = 1 << 21  # elements of one thread's task, a multiple of SUM_TILE; also the unit of input digests
COMPUTE_TILE = 1 << 20  # elements computed at once, over all models: memory does not grow with the experts
LAYER_RE = re.compile(r"^(.*?\b(?:layers?|blocks?|resblocks|h)\.)(\d+)\.")  # groups: stack of blocks, block number


def spans(size: int, step: int, origin: int = 0) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of consecutive ranges of at most `step` elements that cover `size` elements from `origin`."""
    for start in range(origin, origin + size, step):
        yield start, min(start + step, origin + size)


def step_for(models: int) -> int:
    """Return the number of elements of each of `models` models computed at once, a multiple of SUM_TILE."""
    return max(1, COMPUTE_TILE // models // SUM_TILE) * SUM_TILE


def compute_type(stored: str) -> np.dtype:
    """Return the compute type of a safetensors type: float64 for F64 and F32, float32 for narrower types."""
    return np.dtype(np.float64 if stored in ("F64", "F32") else np.float32)
