"""Measure checkpoints in streaming passes: norms of weights and of task vectors, exact trim thresholds."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from nan_merge.checkpoints.checkpoint import Checkpoint
from nan_merge.core import kernels
from nan_merge.core.blocks import compute_type, step_for
from nan_merge.core.errors import UserError
from nan_merge.core.parallel import parallel_map
from nan_merge.core.progress import Progress, no_progress
from nan_merge.engine.reader import Reader, sums_of_squares
from nan_merge.layouts.unify import Chunk, Models
from nan_merge.layouts.updates import LowRank
from nan_merge.methods.coefficients import MODEL
from nan_merge.methods.preprocess import unshared
from nan_merge.methods.varying import block_counts, value_at

OF = ("weights", "task_vector")  # what norms are taken of
EXPERTS_PER_PASS = 4  # experts whose magnitudes are counted in one pass; bounds the memory of the counts


def norms(
    models: Models,
    of: Sequence[str] = OF,
    *,
    threads: int = 1,
    step: int | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Return the squared Frobenius norm of every merged tensor of every expert, of weights and of task vectors, or one of both.

    Tiles of SUM_TILE elements are summed in float64 in a fixed order and the tiles are added exactly (fsum), so the sums
    depend neither on threads nor on shards. The task vector of an adapter is that of its factors, before it is added to the
    base and rounded; where the task vectors of all experts are, nothing is read for them but the factors.
    Raises UserError for NaN and infinity.
    """
    of = [key for key in OF if key in of]
    with threadpool_limits(1):  # of the matrix library, which would add up in another order
        known = {name: _of_factors(models, name) for name in models.merged}
    chunks = models.chunks(n for n in models.merged if "weights" in of or None in known[n])
    columns = [OF.index(key) for key in of]

    def worker() -> Callable[[Chunk], np.ndarray]:
        reader = Reader(models.all, progress, step or 2 * step_for(len(models.all)))

        def work(chunk: Chunk) -> np.ndarray:
            sums = []
            for first, stored in reader.pieces(*chunk):
                sums.append(sums_of_squares(stored))
                if not np.isfinite(sums[-1]).all():
                    raise reader.blame(chunk[0], first, stored)
            tiles = np.concatenate(sums, axis=1)
            return np.array([[math.fsum(tiles[t, :, k]) for k in columns] for t in range(len(tiles))])

        return work

    measured = record(models, chunks, parallel_map(chunks, worker, threads), of)
    for name, sums in measured["tensors"].items() if "task_vector" in of else ():
        pairs = zip(known[name], sums["task_vector"], strict=True)
        sums["task_vector"] = [read if exact is None else exact for exact, read in pairs]
    return measured


def _of_factors(models: Models, name: str) -> list[float | None]:
    """Return the squared norm of a tensor's task vector for each expert whose factors tell it; None for the others.

    Raises UserError for factors with NaN or infinity.
    """
    base = models.base.entries[name]
    squares: list[float | None] = []
    for expert in models.experts.values():
        entry = expert.entries[name]
        square = None if entry is not base else 0.0
        if isinstance(entry, LowRank) and entry.base is base:
            square = entry.square
        squares.append(square)
        if square is not None and not math.isfinite(square):
            raise not_finite(expert, name)
    return squares


def not_finite(expert: Checkpoint, name: str) -> UserError:
    """Return the error for factors of a tensor that cannot be merged."""
    return UserError(
        f"{expert.folder}: the factors of tensor '{name}' hold NaN, infinity or numbers whose product leaves the range of"
        " float64; expected finite numbers, since a merge spreads them. Train or fetch this adapter again"
    )


def record(models: Models, chunks: Sequence[Chunk], sums: Sequence[np.ndarray], keys: Sequence[str]) -> dict[str, Any]:
    """Return the sums of squares (T, keys) of chunks, added up for every tensor, as a record of measures.

    It has the `block_counts` of the model as `blocks`, where the merged tensors alone do not tell them.
    """
    by_tensor: dict[str, list[np.ndarray]] = {name: [] for name in models.merged}
    for (name, _, _), part in zip(chunks, sums, strict=True):
        by_tensor[name].append(part)
    every = range(len(models.experts))
    tensors = {
        name: {
            "numel": models.base.entries[name].size,
            **{key: [math.fsum(p[t][k] for p in parts) for t in every] for k, key in enumerate(keys)},
        }
        for name, parts in by_tensor.items()
    }
    blocks = block_counts(models.base.names)
    return {
        "experts": list(models.experts),
        "tensors": tensors,
        **({} if blocks == block_counts(tensors) else {"blocks": blocks}),
    }


def thresholds(models: Models, density: Any, *, scope: str = MODEL, **settings: Any) -> dict[str, dict[str, float]]:
    """Return the exact magnitudes at which `trim` cuts each expert's task vector: {expert: {row: threshold}}.

    Over the model a threshold is the (d - floor(density d))-th smallest |tau| (TIES, arXiv 2306.01708), so one entry more
    than the share is kept; over a tensor the share is kept exactly, at least one entry, as in mergekit (entries equal to
    the last one are kept too). No sorting is needed: the bits of non-negative floats order like integers, so the threshold
    follows from streaming counts of 16 bits at a time (2 passes where tau is computed in float32, 4 in float64).

    `density` 1 keeps all entries, with threshold 0; it may vary (`varying.Varies`), by expert or over the tensors.
    `scope` is `model` for one row of that name, or `tensor` for a row a tensor; `settings` are `threads`, `step` and
    `progress` as for `norms`.
    """
    if reason := unshared(density, scope):
        raise UserError(reason)
    blocks = block_counts(models.base.names)
    rows = {MODEL: models.merged} if scope == MODEL else {name: (name,) for name in models.merged}
    by_expert: dict[str, dict[str, float]] = {}
    experts = list(models.experts.items())
    for start in range(0, len(experts), EXPERTS_PER_PASS):
        group = dict(experts[start : start + EXPERTS_PER_PASS])
        part, cuts = dataclasses.replace(models, experts=group), {}
        for row, names in rows.items():
            share = value_at(density, row, blocks)
            shares = [share[expert] if isinstance(share, Mapping) else share for expert in group]
            cuts[row] = _cuts(part, names, shares, exactly=scope != MODEL, **settings)
        by_expert |= {expert: {row: cuts[row][expert] for row in rows} for expert in group}
    return by_expert


def _cuts(models: Models, names: Sequence[str], densities: Sequence[float], exactly: bool, **settings: Any) -> dict[str, float]:
    """Return the threshold of each expert, which keeps the share `densities` (T,) of its entries, over the given tensors."""
    size = sum(models.base.entries[name].size for name in names)
    kept = [math.floor(density * size) for density in densities]
    if min(kept) == size:
        return dict.fromkeys(models.experts, 0.0)
    wide = np.result_type(*(compute_type(models.base.entries[name].dtype) for name in names))  # of all, if they differ
    bits = np.zeros(len(models.experts), np.uint32 if wide == np.float32 else np.uint64)
    ranks = np.array([size - max(1, k) + 1 if exactly else size - k for k in kept])
    for shift in range(8 * wide.itemsize - 16, -1, -16):
        for t, below in enumerate(np.cumsum(_counts(models, names, shift, bits, **settings), axis=1)):
            bucket = int(np.searchsorted(below, ranks[t]))
            ranks[t] -= int(below[bucket - 1]) if bucket else 0
            bits[t] = bits[t] << bits.dtype.type(16) | bits.dtype.type(bucket)
    cuts = (0.0 if k == size else float(cut) for k, cut in zip(kept, bits.view(wide), strict=True))
    return dict(zip(models.experts, cuts, strict=True))


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
    """Count 16 bits of those magnitudes of each task vector whose higher bits are `above` (T,): (T, 65536)."""
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
