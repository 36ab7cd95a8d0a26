"""Measure task vectors as the first stage of a method leaves them; apart from `measure`, which depends on no operator."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from nan_merge.core.parallel import MemoryBudget, parallel_map
from nan_merge.core.progress import Progress, no_progress
from nan_merge.engine.fused import fused
from nan_merge.engine.measure import record
from nan_merge.engine.reader import Reader, squares_of
from nan_merge.engine.request import Contexts
from nan_merge.engine.spaces import aligned
from nan_merge.layouts.unify import Chunk
from nan_merge.methods.recipe import bind


def processed(
    contexts: Contexts,
    *,
    preprocess: Mapping[str, Any],
    space: Mapping[str, Any] | None = None,
    threads: int = 1,
    step: int | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Return the squared Frobenius norm of every merged tensor of every expert's task vector as `preprocess` leaves it.

    `preprocess` is one operator with its hyper-parameters, `space` another, for norms of coordinates; `contexts` are those of the
    merge, with its seed and thresholds, so the random draws are the same. The vectors are those of the merge too, but for the
    rounding of 16-bit models of which another operator of the method takes whole tensors (in float64; here in float32). Tiles are
    summed as in `norms`: for float32 files `identity` gives the sums of `norms`. Raises UserError for NaN and infinity.

    ASSUME: NAN (arXiv 2505.16148) is a step that goes after other methods; whether its norms are then of their vectors is open.
    """
    recipe = fused(bind({"preprocess": preprocess, **({"space": space} if space else {})}))
    models = aligned(contexts.models, recipe.space)
    contexts = replace(contexts, models=models)
    units = [unit for unit in models.units(models.merged, recipe.whole) if unit]
    budget = MemoryBudget(max(map(models.memory, models.merged)))

    def vectors(reader: Reader, unit: Sequence[Chunk]) -> Iterator[np.ndarray]:
        name = unit[0][0]
        if recipe.whole:
            with budget.hold(models.memory(name)):
                theta, *_ = values = reader.whole(name, unit, [()] * len(unit))
                yield contexts.preprocess(recipe, values[1:], contexts.of_tensor(name, base=theta)).reshape(len(values) - 1, -1)
            return
        for first, stored in reader.pieces(*unit[0]):
            yield contexts.preprocess(recipe, reader.task_vectors(name, first, stored)[1:], contexts.of_tensor(name, first))

    def worker() -> Callable[[Sequence[Chunk]], np.ndarray]:
        reader = Reader(models.all, progress, step)

        def work(unit: Sequence[Chunk]) -> np.ndarray:
            tiles = np.concatenate([squares_of(taus) for taus in vectors(reader, unit)], axis=1)
            return np.array([[math.fsum(row)] for row in tiles])

        return work

    return record(models, [unit[0] for unit in units], parallel_map(units, worker, threads), ("processed",))
