"""Measure checkpoints in one streaming pass: norms of weights and task vectors, exact trim thresholds. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from merging.checkpoints import Checkpoint
from merging.tensors import blocks, check_alignment, load_block, merged_names

BUCKETS = 1 << 16


def norms(base: Path, experts: Mapping[str, Path], exclude: Sequence[str] = ()) -> dict[str, Any]:
    """Return the squared Frobenius norm of every merged tensor of every expert, of weights and of task vectors.

    Sums run in float64 block by block and are added exactly, so they do not depend on the block order. Raises
    UserError for tensors that do not match the base and for NaN or infinity.
    """
    origin, models = Checkpoint(base), {name: Checkpoint(experts[name]) for name in sorted(experts)}
    names = merged_names(origin, exclude)
    check_alignment(origin, models, names)
    tensors = {}
    for name in names:
        size = origin.entries[name].size
        sums: dict[str, list[list[float]]] = {"weights": [[] for _ in models], "task_vector": [[] for _ in models]}
        for _, start, stop in blocks(size):
            zero = load_block(origin, name, start, stop).astype(np.float64)
            for t, model in enumerate(models.values()):
                weights = load_block(model, name, start, stop).astype(np.float64)
                sums["weights"][t].append(float(np.sum(weights * weights)))
                sums["task_vector"][t].append(float(np.sum((weights - zero) ** 2)))
        tensors[name] = {"numel": size, **{key: [math.fsum(part) for part in parts] for key, parts in sums.items()}}
    return {"experts": list(models), "tensors": tensors}


def threshold(base: Path, expert: Path, density: float, exclude: Sequence[str] = ()) -> float:
    """Return the exact magnitude at which `trim` cuts one expert's task vector, over all merged tensors.

    It is the (d - floor(density d))-th smallest |tau| (TIES, arXiv 2306.01708), found without sorting: the bits of
    non-negative float32 order like integers, so two streaming counts (upper, then lower 16 bits) hold it. Density 1
    keeps all: 0. float64 checkpoints are compared in float32.
    """
    origin, model = Checkpoint(base), Checkpoint(expert)
    names = merged_names(origin, exclude)
    check_alignment(origin, {expert.name: model}, names)
    size = sum(origin.entries[name].size for name in names)
    rank = size - math.floor(density * size)
    if rank <= 0:
        return 0.0
    bits = 0
    for shift in (16, 0):
        counts = np.zeros(BUCKETS, np.int64)
        for name in names:
            for _, start, stop in blocks(origin.entries[name].size):
                magnitude = _magnitude_bits(origin, model, name, start, stop)
                if shift == 0:
                    magnitude = magnitude[magnitude >> 16 == bits >> 16]
                counts += np.bincount((magnitude >> shift) & 0xFFFF, minlength=BUCKETS)
        below = np.cumsum(counts)
        bucket = int(np.searchsorted(below, rank))
        rank -= int(below[bucket - 1]) if bucket else 0
        bits |= bucket << shift
    return float(np.array(bits, np.uint32).view(np.float32))


def _magnitude_bits(origin: Checkpoint, model: Checkpoint, name: str, start: int, stop: int) -> np.ndarray:
    tau = load_block(model, name, start, stop) - load_block(origin, name, start, stop)
    return np.abs(tau.astype(np.float32)).view(np.uint32)
