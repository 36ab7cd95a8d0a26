"""Merge checkpoints: the only loop over tensors. Blocks in, blocks out, in constant memory, at any number of threads."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits
from xxhash import xxh3_128

from nan_merge.checkpoints.checkpoint import Checkpoint, copy_companions
from nan_merge.checkpoints.safetensors_file import DTYPES, NAMES
from nan_merge.checkpoints.writer import Writer
from nan_merge.core.atomic import atomic_write
from nan_merge.core.blocks import compute_type
from nan_merge.core.errors import UserError
from nan_merge.core.files import read_json
from nan_merge.core.parallel import MemoryBudget, parallel_map
from nan_merge.core.progress import Progress, no_progress
from nan_merge.engine.devices import CPU, Device
from nan_merge.engine.fused import fused, linear
from nan_merge.engine.reader import Reader, add, first_not_finite
from nan_merge.layouts.names import config, depths, transposed
from nan_merge.layouts.unify import Chunk, Models
from nan_merge.methods.coefficients import MODEL, CoefficientTable
from nan_merge.methods.context import TensorContext
from nan_merge.methods.recipe import Recipe

WAITING = 2  # threads, above those that were asked for, since some always wait for the disk to write


def merge(
    models: Models,
    recipe: Recipe,
    table: CoefficientTable,
    thresholds: Mapping[str, Mapping[str, float]],
    output: Path,
    *,
    calibration: Mapping[str, Checkpoint] | None = None,
    task: str | None = None,
    seed: int = 0,
    dtype: np.dtype | None = None,
    threads: int = 1,
    device: Device = CPU,
    progress: Progress = no_progress,
    finish: Callable[[Path, dict[str, str]], object] = lambda folder, inputs: None,
) -> None:
    """Write theta_0 + postprocess(combine(preprocess(tau_t), c_t)) into the folder `output`, whole or not at all.

    The output has the base's files, names, types (or `dtype` for all floats) and order. Tensors stored in 16 bits or
    fewer are computed in float32, wider ones in float64, and rounded once; words that see whole tensors compute in
    float64. Tensors that are not merged are copied from the base. The bytes do not depend on threads, shards or the
    order of the experts; on another `device` they may differ by rounding. `calibration` holds by expert what was collected
    of it, under the names of the tensors. `task` is the expert whose task the merge is for, of a method that makes a model
    for each. `finish` adds documents to the folder before it appears; it is given the
    identity of every model: the XXH3-128 digest of the tensors that entered.
    """
    if list(models.experts) != list(table.experts):
        raise UserError(f"coefficients are for the experts {list(table.experts)}, the merge has {list(models.experts)}")
    number = None if task is None else list(models.experts).index(task)
    merger = _Merge(models, recipe, table, thresholds, _in_order(calibration, models), number, seed, device, progress, dtype)
    with atomic_write(output) as part, threadpool_limits(1):  # of the matrix library, which would add up in another order
        part.mkdir()
        copy_companions(models.base.folder, part)
        _write_config(part / "config.json", models, dtype)
        writer = Writer(part, models.base.shards, {n: (merger.types[n], e.shape) for n, e in models.base.entries.items()})

        def worker() -> Callable[[Sequence[Chunk]], list[list[bytes]]]:
            work_on = _Worker(merger).work

            def work(chunks: Sequence[Chunk]) -> list[list[bytes]]:
                digests = [[xxh3_128() for _ in models.all] for _ in chunks]
                for first, stored in work_on(chunks, digests):
                    writer.write(chunks[0][0], first, stored)
                    progress(stored.nbytes)
                return [[digest.digest() for digest in each] for each in digests]

            return work

        items = merger.items()
        try:
            digests = parallel_map(items, worker, threads + WAITING if threads > 1 else 1)
        finally:
            writer.close()
        finish(part, _identities(models, itertools.chain(*items), itertools.chain(*digests)))


def _in_order(calibration: Mapping[str, Checkpoint] | None, models: Models) -> list[Checkpoint]:
    """Return the calibration of every expert, in their order; one that has none is a UserError."""
    if not calibration:
        return []
    if missing := [expert for expert in models.experts if expert not in calibration]:
        raise UserError(f"calibration: none for the experts {missing}; expected one folder for each of {list(models.experts)}")
    return [calibration[expert] for expert in models.experts]


@dataclass(frozen=True)
class _Merge:
    """What all threads of one merge share."""

    models: Models
    recipe: Recipe
    table: CoefficientTable
    thresholds: Mapping[str, Mapping[str, float]]
    calibration: Sequence[Checkpoint]
    task: int | None
    seed: int
    device: Device
    progress: Progress
    dtype: np.dtype | None

    @cached_property
    def merged(self) -> set[str]:
        """The names of the tensors that are merged."""
        return set(self.models.merged)

    @cached_property
    def types(self) -> dict[str, str]:
        """The type in which each tensor is written."""
        new = None if self.dtype is None else NAMES[self.dtype]
        return {name: new if new and e.is_float else e.dtype for name, e in self.models.base.entries.items()}

    @cached_property
    def depths(self) -> dict[str, float]:
        """The depth of each tensor in a block."""
        return depths(self.models.merged)

    @cached_property
    def transposed(self) -> set[str]:
        """The matrices that are stored as (in, out)."""
        return transposed(config(self.models.base), self.models.merged)

    @cached_property
    def budget(self) -> MemoryBudget:
        """Room for the largest tensor of all models, which whole tensors share."""
        return MemoryBudget(max(map(self.size, self.models.merged)))

    def size(self, name: str) -> int:
        """Return about how many bytes it takes to hold a whole tensor of all models."""
        return 8 * len(self.models.all) * self.models.base.entries[name].size

    def items(self) -> list[list[Chunk]]:
        """Return what a thread takes at once: one chunk, or all of a tensor that must be seen whole."""
        if not self.recipe.whole:
            return [[chunk] for chunk in self.models.chunks(self.models.base.names)]
        return [self.models.chunks([name]) for name in self.models.base.names]

    def context(self, name: str, first: int = 0, base: Any = None) -> TensorContext:
        """Return the site of all experts together at one place."""
        depth, turned = self.depths.get(name), name in self.transposed
        return TensorContext(name, first, seed=self.seed, base=base, depth=depth, transposed=turned, task=self.task)

    def threshold(self, expert: str, name: str) -> float:
        """Return where `trim` cuts a tensor of an expert."""
        rows = self.thresholds.get(expert, {})
        return rows.get(name, rows.get(MODEL, 0.0))


class _Worker:
    """The buffers of one thread, and what it does with them: read, compute, round."""

    def __init__(self, merge: _Merge) -> None:
        self.merge, self.device = merge, merge.device
        kernels = self.device.fused and not merge.recipe.whole
        self.preprocess, self.combine = fused(merge.recipe) if kernels else (merge.recipe.preprocess, merge.recipe.combine)
        self.at_once = self.device.fused and merge.recipe.is_linear
        self.reader, self.base_reader = (
            Reader(each, merge.progress, self.device.step) for each in (merge.models.all, [merge.models.base])
        )
        self.out = np.empty(8 * max(self.reader.step, self.base_reader.step), np.uint8)

    def work(self, chunks: Sequence[Chunk], digests: Sequence[Sequence[Any]]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first element, values as stored) of the chunks of one tensor; `digests` see what was read of each."""
        name = chunks[0][0] if chunks else ""
        if name in self.merge.merged and self.merge.recipe.whole:
            with self.merge.budget.hold(self.merge.size(name)):
                yield from self.whole(name, chunks, digests)
            return
        for chunk, digest in zip(chunks, digests, strict=True):
            yield from (self.blocks if name in self.merge.merged else self.copies)(*chunk, digest)

    def blocks(self, name: str, start: int, stop: int, digests: Sequence[Any]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the merged values of a chunk, piece by piece."""
        alpha, dtype = self.merge.table.at(name), DTYPES[self.merge.types[name]]
        for first, stored in self.reader.pieces(name, start, stop, digests):
            out = self.out[: len(stored[0]) * dtype.itemsize].view(dtype)
            if not (self.at_once and linear(stored, alpha, out)):
                values = self.reader.task_vectors(name, first, stored)
                context = replace(
                    self.merge.context(name, first), calibration=self.calibration(name, first, first + len(stored[0]))
                )
                self.rounded(values[0], self.merged(self.device.up(values[1:]), alpha, context), out, context)
            yield first, out

    def whole(self, name: str, chunks: Sequence[Chunk], digests: Sequence[Sequence[Any]]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the merged values of a tensor whose words must see all of it."""
        entry, dtype = self.merge.models.base.entries[name], DTYPES[self.merge.types[name]]
        values = np.empty((len(self.merge.models.all), entry.size))
        for chunk, digest in zip(chunks, digests, strict=True):
            for first, stored in self.reader.pieces(*chunk, digest):
                values[:, first : first + len(stored[0])] = self.reader.task_vectors(name, first, stored)
        up = self.device.up(values.reshape(len(values), *(entry.shape or (1,))))
        context = replace(self.merge.context(name, base=up[0]), calibration=self.calibration(name))
        merged = self.merged(up[1:], self.merge.table.at(name), context).reshape(-1)
        out = np.empty(entry.size, dtype)
        self.rounded(values[0], merged, out, context)
        yield 0, out

    def merged(self, taus: Any, alpha: Sequence[float], context: TensorContext) -> Any:
        """Run the words: task vectors (T, ...) in, which may be overwritten, and the merged one (...) out."""
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is the error of `rounded`
            for t, expert in enumerate(self.merge.models.experts):
                own = replace(context, expert=expert, threshold=self.merge.threshold(expert, context.tensor))
                taus[t] = self.preprocess(taus[t], own)
            merged = self.combine(taus, alpha, context)
            return self.merge.recipe.postprocess(merged, taus if self.merge.recipe.whole else (), context)

    def rounded(self, theta: np.ndarray, merged: Any, out: np.ndarray, context: TensorContext) -> None:
        """Write theta + merged (n,) into `out` (n,), rounded once; what leaves its range is a UserError."""
        with np.errstate(over="ignore", invalid="ignore"):
            if not add(theta, self.device.down(merged), out):
                index = context.start + (first_not_finite(out) or 0)
                raise UserError(
                    f"the merge of tensor '{context.tensor}' leaves the range of {out.dtype.name} at flat index {index}; expected"
                    " finite numbers; lower the coefficients of the method"
                )

    def calibration(self, name: str, start: int = 0, stop: int | None = None) -> list[Any]:
        """Return what was collected of every expert for a tensor, whole or (n,) of it; nothing if one has nothing."""
        entries = [found.entries[name] for found in self.merge.calibration if name in found.entries]
        if not entries or len(entries) < len(self.merge.calibration):
            return []
        if stop is not None:
            return [self.device.up(each.block(start, stop)) for each in entries]
        return [self.device.up(each.block(0, each.size).reshape(each.shape).astype(np.float64)) for each in entries]

    def copies(self, name: str, start: int, stop: int, digests: Sequence[Any]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the values of a chunk that is left at the base."""
        entry, dtype = self.merge.models.base.entries[name], DTYPES[self.merge.types[name]]
        for first, (stored,) in self.base_reader.pieces(name, start, stop, digests[:1]):
            yield first, stored if stored.dtype == dtype else stored.astype(compute_type(entry.dtype)).astype(dtype)


def _write_config(file: Path, models: Models, dtype: np.dtype | None) -> None:
    """Write what the layout or another type changes into the config that was copied from the base."""
    changes = {**models.config, **({"dtype": dtype.name, "torch_dtype": dtype.name} if dtype is not None else {})}
    if file.exists() and changes:
        file.write_text(json.dumps({**read_json(file), **changes}, indent=2) + "\n", encoding="utf-8")


def _identities(models: Models, chunks: Iterable[Chunk], digests: Iterable[Sequence[bytes]]) -> dict[str, str]:
    """Return by model the XXH3-128 of (name, type, shape, digests of its chunks) of every tensor that was read of it."""
    whole = [xxh3_128() for _ in models.all]
    order = sorted(zip(chunks, digests, strict=True), key=lambda each: each[0])
    for (name, start, _), parts in order:
        for checkpoint, digest, part in zip(models.all, whole, parts, strict=True):
            if name in checkpoint.entries:
                entry = checkpoint.entries[name]
                digest.update(f"{name}\0{entry.dtype}\0{entry.shape}\0{start}\0".encode() + part)
    return {name: digest.hexdigest() for name, digest in zip(("base", *models.experts), whole, strict=True)}
