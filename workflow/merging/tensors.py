"""What every stage agrees on about tensors: cells and chunks, seeds, types. No torch."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace

CELL = 1 << 15  # elements whose squares are summed together
CHUNK = 1 << 21  # elements that a thread takes at once, whole cells; the unit of the digests of inputs
HELD = 1 << 20  # elements that a thread computes at once, over all models: more experts need no more memory
BLOCK = re.compile(r"^(.*?\b(?:layers?|blocks?|resblocks|h)\.)(\d+)\.")  # names in a block: its stack, its number
DRAWS = 1 << 24  # the number of different values of a random draw
_GAMMA, _MIX_1, _MIX_2 = (x - (1 << 64) for x in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
Array = Any  # a NumPy array or a torch tensor
Progress = Callable[[int], object]  # called with a number of bytes that were read or written


def silent(count: int) -> None:
    """Show no progress."""


@dataclass(frozen=True)
class Site:
    """Where a word is applied: the one object that a word may ask, so that with the same site it is pure.

    `start` is the flat index in its tensor of the first element that the word sees, `base` the numbers of the base
    there. `evidence` holds what was collected of every expert for this tensor, or nothing. `depth` runs from 0 in the
    first block of the network to 1 in the last, and is None outside the blocks. `transposed` says that a matrix is
    stored as (in, out), as in GPT-2, not as (out, in). `task` is the number of the expert whose task the merge is for,
    of a method that makes a model for each.
    """

    tensor: str
    start: int = 0
    expert: str = ""
    seed: int = 0
    threshold: float = 0.0
    base: Array = None
    evidence: Sequence[Array] = ()
    depth: float | None = None
    transposed: bool = False
    task: int | None = None

    @property
    def key(self) -> int:
        """The random stream of (seed, expert, tensor), a signed 64-bit number."""
        return _key(self.seed, self.expert, self.tensor)

    def draws(self, like: Array) -> Array:
        """Draw one number from 0 to 2^24 - 1 for every element of `like`: int64 of its shape, on its device.

        Draw i is the upper 24 bits of output number `start` + i of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014)
        seeded by `key`, so it depends on seed, expert, tensor and element, and on nothing else.
        """
        ones = (abs(like) >= 0).reshape(-1)  # counted up in operators that NumPy and torch share
        z = (ones.cumsum(0) + (self.start - 1)) * _GAMMA + self.key
        z = (z ^ _shift(z, 30)) * _MIX_1
        z = (z ^ _shift(z, 27)) * _MIX_2
        return _shift(z ^ _shift(z, 31), 40).reshape(like.shape)


@functools.lru_cache(maxsize=4096)
def _key(*words: object) -> int:
    text = "\0".join(map(str, words))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def _shift(z: Array, bits: int) -> Array:
    """Shift int64 to the right as if it had no sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def whole(word: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a word that must see whole tensors in their shape, in float64; the others see flat pieces of them."""
    word.whole = True  # type: ignore[attr-defined]
    return word


def looks_at(kind: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Mark a word of `combine` that looks at evidence of this kind in its site."""

    def mark(word: Callable[..., Any]) -> Callable[..., Any]:
        word.evidence = kind  # type: ignore[attr-defined]
        return word

    return mark


def namespace(array: Array) -> Any:
    """Return NumPy or torch under the names of the array API standard, whichever the array is of."""
    return array_namespace(array)


def spans(size: int, step: int, origin: int = 0) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of the steps of `size` elements that start at `origin`."""
    for start in range(origin, origin + size, step):
        yield start, min(start + step, origin + size)


def step_for(models: int) -> int:
    """Return how many elements of each of several models are computed at once: whole cells."""
    return max(1, HELD // models // CELL) * CELL


def compute_type(stored: str) -> np.dtype:
    """Return the type that a stored type is computed in: float32 for 16 bits and fewer, float64 for more."""
    return np.dtype(np.float64 if stored in ("F64", "F32") else np.float32)
