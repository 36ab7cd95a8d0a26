"""Measure checkpoints in streaming passes: norms of weights and of task vectors, exact trim thresholds."""

from __future__ import annotations

import dataclasses
import math
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
from nan_merge.engine.reader import Reader, for_kernels, sums_of_squares
from nan_merge.layouts.unify import Chunk, Models
from nan_merge.layouts.updates import LowRank
from nan_merge.methods.coefficients import MODEL
from nan_merge.methods.preprocess import unshared
from nan_merge.methods.varying import block_counts, value_at

OF = ("weights", "task_vector")  # what norms are taken of
EXPERTS_PER_PASS = 4  # experts whose magnitudes are counted in one pass; bounds the memory of the counts
BINS, FINE_BINS = 1 << 16, 1 << 19  # counts of one expert, the latter where an interval was guessed
GUESSED = 1 << 26  # elements from which on a guess costs less than the pass that it saves
SPANS, SPAN = 2048, 512  # short pieces of the merged tensors that a guess looks at, and elements of one


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
    follows from counts of magnitudes below an interval and in parts of it. A sample of large models guesses the first interval;
    then one pass is enough where tau is computed in float32, three in float64.

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
    ranks = [size - max(1, k) + 1 if exactly else max(1, size - k) for k in kept]
    intervals, bins = [(0, end := 1 << 8 * wide.itemsize - 1)] * len(ranks), BINS
    if size > GUESSED:
        intervals, bins = _guesses(models, names, wide, [rank / size for rank in ranks]), FINE_BINS
    narrowed = False
    while not narrowed:
        below, counts, shift = _counts(models, names, wide, intervals, bins, **settings)
        for t, ((low, high), within) in enumerate(zip(intervals, np.cumsum(counts, axis=1), strict=True)):
            place = ranks[t] - below[t]
            if 1 <= place <= within[-1]:
                first = low + (int(np.searchsorted(within, place)) << shift)
                intervals[t] = first, min(first + (1 << shift), high)
            else:  # the guess was wrong
                intervals[t] = (0, low) if place < 1 else (high, end)
        narrowed = all(high - low == 1 for low, high in intervals)
    bits = np.array([low for low, _ in intervals], f"u{wide.itemsize}")
    cuts = (0.0 if k == size else float(cut) for k, cut in zip(kept, bits.view(wide), strict=True))
    return dict(zip(models.experts, cuts, strict=True))


def _guesses(models: Models, names: Sequence[str], wide: np.dtype, shares: Sequence[float]) -> list[tuple[int, int]]:
    """Return for each expert the bits (lowest, highest + 1) between which the magnitude above a share of the others should be.

    They are three standard errors about that of SPANS short spans of the tensors, by the differences of successive spans:
    elements of a row resemble each other, and so do rows of a tensor.
    """
    reader = Reader(models.all, step=SPAN)
    ends = np.cumsum([models.base.entries[name].size for name in names])
    spans = []
    for place in np.linspace(0, ends[-1], SPANS, endpoint=False).astype(np.int64):
        which = int(np.searchsorted(ends, place, side="right"))
        stop = models.base.entries[names[which]].size
        start = int(place - ends[which]) + stop
        first, stored = next(reader.pieces(names[which], start, min(start + SPAN, stop)))
        spans.append(np.abs(reader.task_vectors(names[which], first, stored)[1:]).astype(wide))
    intervals = []
    for t, share in enumerate(shares):
        magnitudes = np.concatenate([span[t] for span in spans])
        middle = np.quantile(magnitudes, share, method="nearest")
        error = 3 * float(np.std(np.diff([np.mean(span[t] <= middle) for span in spans]))) / (2 * SPANS) ** 0.5
        bounds = np.quantile(magnitudes, [max(share - error, 0), min(share + error, 1)], method="nearest")
        low, high = bounds.view(f"u{wide.itemsize}").tolist()
        intervals.append((low, high + 1))
    return intervals


def _counts(
    models: Models,
    names: Sequence[str],
    wide: np.dtype,
    intervals: Sequence[tuple[int, int]],
    bins: int,
    *,
    threads: int = 1,
    step: int | None = None,
    progress: Progress = no_progress,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Count the magnitudes of each task vector in an interval of their bits, at most `bins` equal parts of it: (T, bins).

    Also returns how many are below each interval (T,), and the number of low bits that a part leaves open.
    """
    kind = np.dtype(f"u{wide.itemsize}").type
    widest = max(high - low for low, high in intervals)
    shift = max(0, (widest - 1).bit_length() - bins.bit_length() + 1)
    limits = np.array([(low, high - low) for low, high in intervals], kind)
    found: list[tuple[np.ndarray, np.ndarray]] = []

    def worker() -> Callable[[Chunk], None]:
        reader, tau = Reader(models.all, progress, step), np.empty(kernels.CACHE_TILE, wide)
        below, counts = np.zeros(len(limits), np.int64), np.zeros((len(limits), ((widest - 1) >> shift) + 1), np.int64)
        found.append((below, counts))

        def work(chunk: Chunk) -> None:
            name, theta = chunk[0], np.empty(kernels.CACHE_TILE, compute_type(models.base.entries[chunk[0]].dtype))
            for first, stored in reader.pieces(*chunk):
                if (blocks := for_kernels(stored)) is None:
                    blocks = [*reader.task_vectors(name, first, stored)]
                    blocks[0] = np.zeros_like(blocks[0])
                base, *tuned = blocks
                for t, expert in enumerate(tuned):
                    smaller, top = kernels.count(base, expert, theta, tau, limits[t], kind(shift), counts[t])
                    below[t] += smaller
                    if not np.isfinite(kind(top).view(wide)):
                        reader.task_vectors(name, first, stored)  # an error, if a number of a model is the reason

        return work

    parallel_map(models.chunks(names), worker, threads)
    below, counts = (np.sum(each, axis=0) for each in zip(*found, strict=True))
    return below, counts, shift
