"""Reduce the task vector of one fine-tuned model to factors, tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from threadpoolctl import threadpool_limits

from nan_merge.core.parallel import parallel_map
from nan_merge.core.progress import Progress, no_progress
from nan_merge.engine.low_rank import Factors, truncated
from nan_merge.engine.reader import Reader
from nan_merge.layouts.names import config, transposed
from nan_merge.layouts.unify import Models


def task_vector(reader: Reader, models: Models, name: str) -> np.ndarray:
    """Return the task vector of a whole tensor of the only expert, in float64: (*shape); UserError for NaN and infinity."""
    chunks = models.chunks([name])
    return reader.whole(name, chunks, [()] * len(chunks))[1]


def moved(models: Models, *, threads: int = 1, progress: Progress = no_progress) -> list[str]:
    """Return the names of the tensors in which the only expert differs from the base, in the base's order."""

    def worker() -> Callable[[str], bool]:
        reader = Reader(models.all, progress)
        return lambda name: any(
            reader.task_vectors(name, first, stored)[1].any()
            for chunk in models.chunks([name])
            for first, stored in reader.pieces(*chunk)
        )

    return [name for name, is_moved in zip(models.merged, parallel_map(models.merged, worker, threads), strict=True) if is_moved]


def extract(
    models: Models,
    names: Sequence[str],
    *,
    rank: int | None = None,
    energy: float = 1.0,
    threads: int = 1,
    progress: Progress = no_progress,
) -> dict[str, Factors]:
    """Return the best factors of the only expert's task vector for the named matrices.

    The rank is `rank`, or the size of a smaller matrix; without it the smallest that keeps the share `energy` of a squared norm.
    """
    turned = transposed(config(models.base), models.base.entries)

    def worker() -> Callable[[str], Factors]:
        reader = Reader(models.all, progress)

        def work(name: str) -> Factors:
            tau = task_vector(reader, models, name)
            return truncated(tau.T if name in turned else tau, rank and min(rank, *tau.shape), energy)

        return work

    with threadpool_limits(1):  # of the matrix library, which would add up in another order
        return dict(zip(names, parallel_map(names, worker, threads), strict=True))
