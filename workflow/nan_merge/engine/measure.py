"""Measure checkpoints in streaming passes: norms of weights and task vectors, exact trim thresholds. No torch."""

from __future__ import annotations

import dataclasses
import itertools
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from nan_merge.checkpoints.checkpoint import Checkpoint
from nan_merge.core import kernels
from nan_merge.core.blocks import compute_type, step_for
from nan_merge.core.parallel import parallel_map
from nan_merge.core.progress import Progress, no_progress
from nan_merge.engine.reader import Reader, sums_of_squares
from nan_merge.layouts.unify import Chunk, Models
from nan_merge.methods.coefficients import MODEL

EXPERTS_PER_PASS = 4  # experts whose magnitudes are counted in one pass: the counts of more would take more memory


def norms(models: Models, *, threads: int = 1, step: int | None = None, progress: Progress = no_progress) -> dict[str, Any]:
    """Return the squared Frobenius norm of every merged tensor of every expert, of weights and of task vectors.

    A cell is summed in float64 in a fixed order and the cells are added exactly (fsum), so the sums depend neither
    on threads nor on shards. Raises UserError for NaN and infinity.
    """
    chunks = models.chunks(models.merged)

    def worker() -> Callable[[Chunk], np.ndarray]:
        reader = Reader(models.all, progress, step or 2 * step_for(len(models.all)))  # nothing is held but what was read

        def work(chunk: Chunk) -> np.ndarray:
            sums = []
            for first, stored in reader.pieces(*chunk):
                sums.append(sums_of_squares(stored))
                if not np.isfinite(sums[-1]).all():
                    raise reader.blame(chunk[0], first, stored)
            cells = np.concatenate(sums, axis=1)
            return np.array([[math.fsum(cells[t, :, k]) for k in (0, 1)] for t in range(len(cells))])

        return work

    sums = parallel_map(chunks, worker, threads)
    of: dict[str, list[np.ndarray]] = {name: [] for name in models.merged}
    for (name, _, _), part in zip(chunks, sums, strict=True):
        of[name].append(part)
    every = range(len(models.experts))
    tensors = {
        name: {
            "numel": models.base.entries[name].size,
            **{key: [math.fsum(p[t][k] for p in parts) for t in every] for k, key in enumerate(("weights", "task_vector"))},
        }
        for name, parts in of.items()
    }
    return {"experts": list(models.experts), "tensors": tensors}


def thresholds(models: Models, density: float, *, scope: str = MODEL, **how: Any) -> dict[str, dict[str, float]]:
    """Return the exact magnitudes at which `trim` cuts each expert's task vector: {expert: {row: threshold}}.

    The row is `model`, or with `scope: tensor` each tensor. Over the model a threshold is the (d - floor(density d))-th
    smallest |tau| (TIES, arXiv 2306.01708), so one entry more than the share is kept; over a tensor the share is kept
    exactly, at least one entry, as mergekit does (entries that tie with the last one stay too). It is found without
    sorting: the bits of non-negative floats order like integers, so streaming counts of 16 bits after 16 bits hold it
    (2 where tau is computed in float32, 4 in float64). Density 1 keeps all: 0. `how` are `threads`, `step` and
    `progress` as in `norms`.
    """
    rows = {MODEL: models.merged} if scope == MODEL else {name: (name,) for name in models.merged}
    found: dict[str, dict[str, float]] = {}
    for few in _groups(models.experts, EXPERTS_PER_PASS):
        part = dataclasses.replace(models, experts=few)
        cuts = {row: _cuts(part, names, density, exactly=scope != MODEL, **how) for row, names in rows.items()}
        found |= {expert: {row: cuts[row][expert] for row in rows} for expert in few}
    return found


def _groups(experts: Mapping[str, Checkpoint], size: int) -> Iterator[dict[str, Checkpoint]]:
    waiting = iter(experts.items())
    while few := dict(itertools.islice(waiting, size)):
        yield few


def _cuts(models: Models, names: Sequence[str], density: float, exactly: bool, **how: Any) -> dict[str, float]:
    """Return the threshold of each expert over the given tensors."""
    size = sum(models.base.entries[name].size for name in names)
    kept = math.floor(density * size)
    rank = size - max(1, kept) + 1 if exactly else size - kept
    if kept == size:
        return dict.fromkeys(models.experts, 0.0)
    wide = np.result_type(*(compute_type(models.base.entries[name].dtype) for name in names))  # of all, if they differ
    bits = np.zeros(len(models.experts), np.uint32 if wide == np.float32 else np.uint64)
    ranks = np.full(len(models.experts), rank)
    for shift in range(8 * wide.itemsize - 16, -1, -16):
        for t, below in enumerate(np.cumsum(_counts(models, names, shift, bits, **how), axis=1)):
            bucket = int(np.searchsorted(below, ranks[t]))
            ranks[t] -= int(below[bucket - 1]) if bucket else 0
            bits[t] = bits[t] << bits.dtype.type(16) | bits.dtype.type(bucket)
    return {expert: float(cut) for expert, cut in zip(models.experts, bits.view(wide), strict=True)}


def _counts(
    models: Models,
    names: Sequence[str],
    shift: int,
    above: np.ndarray,
    *,
    threads: int = 1,
    step: int | None = None,
    progress: Progress = no_progress,
) -> np.ndarray:
    """Count 16 bits of the magnitudes of each task vector that have the bits `above` (T,) them: (T, 65536)."""
    kind, wide = above.dtype, np.dtype(f"f{above.dtype.itemsize}")
    totals, lock = np.zeros((len(models.experts), 1 << 16), np.int64), threading.Lock()

    def worker() -> Callable[[Chunk], None]:
        reader = Reader(models.all, progress, step)
        counts = np.zeros((len(models.experts), 1 << 16), np.uint32)

        def work(chunk: Chunk) -> None:
            for first, stored in reader.pieces(*chunk):
                for t, tau in enumerate(reader.task_vectors(chunk[0], first, stored)[1:]):
                    magnitudes = np.abs(tau, out=tau).astype(wide, copy=False).view(kind)
                    kernels.count(magnitudes, kind.type(shift), above[t], counts[t])
            with lock:
                np.add(totals, counts, out=totals)
            counts[:] = 0

        return work

    parallel_map(models.chunks(names), worker, threads)
    return totals
