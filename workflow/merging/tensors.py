"""What every stage agrees on about tensors: blocks, seeds, alignment of models, finite numbers. No torch."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from merging.checkpoints import Checkpoint
from merging.results import UserError

BLOCK = 1 << 20  # elements; part of the random stream of `drop`, so a constant of the project


@dataclass(frozen=True)
class Site:
    """Where a word is applied: the one object that a word may ask, so that with the same site it is pure."""

    tensor: str
    block: int = 0
    expert: str = ""
    seed: int = 0
    threshold: float = 0.0

    def generator(self) -> np.random.Generator:
        """Return the random generator of (seed, expert, tensor, block), independent of visiting order."""
        words = (self.seed, zlib.crc32(self.expert.encode()), zlib.crc32(self.tensor.encode()), self.block)
        return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))


def blocks(size: int) -> Iterator[tuple[int, int, int]]:
    """Yield (number, start, stop) of the fixed blocks of a flattened tensor of `size` elements."""
    for number, start in enumerate(range(0, size, BLOCK)):
        yield number, start, min(start + BLOCK, size)


def merged_names(base: Checkpoint, exclude: Sequence[str]) -> list[str]:
    """Return the names that are merged: floating-point tensors that match none of the regular expressions."""
    patterns = [re.compile(pattern) for pattern in exclude]
    names = [n for n in base.names if base.is_float(n) and not any(p.search(n) for p in patterns)]
    if not names:
        raise UserError(f"{base.folder}: no tensor is left to merge; correct `merge: exclude:` of the suite ({list(exclude)})")
    return names


def check_alignment(base: Checkpoint, experts: dict[str, Checkpoint], names: Sequence[str]) -> None:
    """Raise a UserError that lists every tensor of `names` that an expert lacks or holds in another shape."""
    faults = []
    for expert, checkpoint in experts.items():
        for name in names:
            if name not in checkpoint.entries:
                faults.append(f"expert '{expert}' has no tensor '{name}'")
            elif checkpoint.shape(name) != base.shape(name):
                faults.append(
                    f"expert '{expert}': tensor '{name}' is {list(checkpoint.shape(name))}, expected {list(base.shape(name))}"
                )
    if faults:
        shown = "; ".join(faults[:8]) + (f"; and {len(faults) - 8} more" if len(faults) > 8 else "")
        raise UserError(
            f"{len(faults)} tensors do not match the base {base.folder}: {shown}. Use experts of this base, or leave"
            " these tensors at the base with `merge: exclude:` in the suite"
        )


def load_block(checkpoint: Checkpoint, name: str, start: int, stop: int) -> np.ndarray:
    """Read one block as float32 (float64 stays float64): (stop - start,); NaN and infinities are a UserError."""
    stored = checkpoint.block(name, start, stop)
    block = stored if stored.dtype == np.float64 else stored.astype(np.float32)
    finite = np.isfinite(block)
    if not finite.all():
        index = start + int(np.argmin(finite))
        raise UserError(
            f"{checkpoint.folder}: tensor '{name}' holds {block[index - start]} at flat index {index}; a merge of it"
            " would be NaN everywhere it reaches. Train or fetch this checkpoint again"
        )
    return block
