"""Merge checkpoints: the only loop over tensors. Pieces in, pieces out, in constant memory, at any number of threads."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits
from xxhash import xxh3_128

from nan_merge.checkpoints.companions import copy_companions
from nan_merge.checkpoints.safetensors_file import DTYPES
from nan_merge.checkpoints.writer import Writer
from nan_merge.core.atomic import atomic_write
from nan_merge.core.errors import UserError
from nan_merge.core.parallel import MemoryBudget, parallel_map
from nan_merge.core.progress import Progress, no_progress
from nan_merge.core.text import read_mapping
from nan_merge.engine.devices import CPU, Device
from nan_merge.engine.fused import fused, linear
from nan_merge.engine.reader import Reader, add, convert, first_not_finite
from nan_merge.engine.request import MergeRequest
from nan_merge.engine.spaces import Origin, aligned
from nan_merge.layouts.unify import Chunk, Models
from nan_merge.methods.context import TensorContext
from nan_merge.methods.recipe import Recipe
from nan_merge.methods.spaces import full

WAITING = 2  # threads, above those that were asked for, since some always wait for the disk to write


def merge(
    request: MergeRequest,
    output: Path,
    *,
    threads: int = 1,
    device: Device = CPU,
    progress: Progress = no_progress,
    finish: Callable[[Path, dict[str, str], dict[str, str]], object] = lambda folder, inputs, written: None,
) -> None:
    """Write theta_0 + postprocess(combine(preprocess(tau_t), c_t)) into the folder `output`, whole or not at all.

    The output has the base's files, names, order and types (or `request.dtype` for all floats). Tensors stored in 16 bits
    or fewer are computed in float32, wider ones in float64, and rounded once; operators on whole tensors compute in
    `request.compute`. Tensors that are not merged are copied from the base. The bytes do not depend on threads, shards or the
    order of the experts; on another device, and with another `request.blas_threads`, they may differ by rounding.

    `progress` is called with numbers of bytes read and written; `finish` with the folder before it appears, to add documents,
    with the XXH3-128 digest of the tensors that entered, by model, and with the digest of every weight file (`writer.digest`).

    Raises UserError for an `output` that may not be replaced (`exclusive`), if a number of a model is NaN or infinite, and if
    the merge leaves the range of its type.
    """
    models = request.models
    request = lift(request, threads=threads, device=device)
    with atomic_write(output) as part:
        part.mkdir()
        copy_companions(models.base.folder, part, models.base.shards)
        _write_config(part / "config.json", models, request.dtype)
        writer = Writer(part, models.base.shards, {n: (request.types[n], e.shape) for n, e in models.base.entries.items()})
        try:
            inputs = stream(request, writer.write, threads=threads, device=device, progress=progress)
        finally:
            writer.close()
        finish(part, inputs, writer.digests())


def stream(
    request: MergeRequest,
    write: Callable[[str, int, np.ndarray], object],
    *,
    threads: int = 1,
    device: Device = CPU,
    progress: Progress = no_progress,
    names: Iterable[str] | None = None,
) -> dict[str, str]:
    """Pass every tensor of a merge, or those in `names`, to `write`, in pieces; return the digests of the inputs; see `merge`.

    `write` is called with a name, the index of the first element, and values (n,) in the type of `request.types`, from several
    threads and in any order; the values are overwritten afterwards.
    """
    models, recipe = request.models, fused(request.recipe) if device.fused else request.recipe
    budget = MemoryBudget(max(map(models.memory, models.merged)))  # room for the largest tensor, which whole tensors share

    def worker() -> Callable[[Sequence[Chunk]], list[list[bytes]]]:
        merged = _Worker(request, recipe, budget, device, progress).merged

        def work(chunks: Sequence[Chunk]) -> list[list[bytes]]:
            digests = [[xxh3_128() for _ in models.all] for _ in chunks]
            for first, stored in merged(chunks, digests):
                write(chunks[0][0], first, stored)
                progress(stored.nbytes)
            return [[digest.digest() for digest in each] for each in digests]

        return work

    items = models.units(models.base.names if names is None else names, request.recipe.whole)
    if request.recipe.whole:
        import scipy.linalg  # noqa: F401  before the limit, which holds for the libraries that are loaded
    large = [item for item in items if _is_large(item, request, budget)]
    others = [item for item in items if not _is_large(item, request, budget)]
    with threadpool_limits(request.blas_threads):  # of the matrix library: with another number it adds up in another order
        digests = parallel_map(large, worker)
    with threadpool_limits(1):
        digests += parallel_map(others, worker, threads + WAITING if threads > 1 else 1)
    return _identities(models, itertools.chain(*large, *others), itertools.chain(*digests))


def _is_large(item: Sequence[Chunk], request: MergeRequest, budget: MemoryBudget) -> bool:
    """Return whether so few tensors of this size fit the memory that two or more of the threads fall to each of them."""
    name = item[0][0] if item and request.recipe.whole else ""
    return name in request.merged and request.models.memory(name) * request.blas_threads >= 2 * budget.total


def lift(request: MergeRequest, *, threads: int = 1, device: Device = CPU) -> MergeRequest:
    """Return a request with the task vectors that a space merges, as factors; one without a space as it is.

    A linear merge is the same in every space, and made of the task vectors.
    """
    inner = aligned(request.models, request.recipe.space)
    origins = {name: entry for name, entry in inner.base.entries.items() if isinstance(entry, Origin)}
    if not origins or request.recipe.is_linear:
        return request
    blocks = {name: np.empty(origin.size) for name, origin in origins.items()}

    def write(name: str, first: int, stored: np.ndarray) -> None:
        blocks[name][first : first + len(stored)] = stored

    inside = replace(request, models=inner, recipe=replace(request.recipe, space=partial(full)), dtype=None)
    stream(inside, write, threads=threads, device=device, names=origins)
    with threadpool_limits(1):
        lifted = {name: origin.lifted(blocks[name].reshape(origin.shape)) for name, origin in origins.items()}
    return replace(request, lifted=lifted)


class _Worker:
    """The buffers of one thread, and the steps of a merge on them: read, compute, round."""

    def __init__(self, request: MergeRequest, recipe: Recipe, budget: MemoryBudget, device: Device, progress: Progress) -> None:
        self.request, self.recipe, self.budget, self.device = request, recipe, budget, device
        self.in_one_pass = device.fused and request.recipe.is_linear
        self.reader, self.base_reader = (
            Reader(checkpoints, progress, device.step) for checkpoints in (request.models.all, [request.models.base])
        )
        self.out = np.empty(8 * max(self.reader.step, self.base_reader.step), np.uint8)

    def merged(self, chunks: Sequence[Chunk], digests: Sequence[Sequence[Any]]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first element, values as stored) of the chunks of one tensor; `digests` are updated chunk by chunk."""
        name = chunks[0][0] if chunks else ""
        if name in self.request.lifted:
            for chunk, digest in zip(chunks, digests, strict=True):
                yield from self._lifted(*chunk, digest)
            return
        if name in self.request.merged and self.recipe.whole:
            with self.budget.hold(self.request.models.memory(name)):
                yield from self._whole(name, chunks, digests)
            return
        for chunk, digest in zip(chunks, digests, strict=True):
            yield from (self._blocks if name in self.request.merged else self._copies)(*chunk, digest)

    def _blocks(self, name: str, start: int, stop: int, digests: Sequence[Any]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the merged values of a chunk, piece by piece."""
        alpha, dtype = self.request.table.at(name), DTYPES[self.request.types[name]]
        for first, stored in self.reader.pieces(name, start, stop, digests):
            out = self.out[: len(stored[0]) * dtype.itemsize].view(dtype)
            if not (self.in_one_pass and linear(stored, alpha, out)):
                values = self.reader.task_vectors(name, first, stored)
                statistics = self._statistics(name, first, first + len(stored[0]))
                context = self.request.contexts.of_tensor(name, first, calibration=statistics)
                self._round(values[0], self._combined(self.device.to_device(values[1:]), alpha, context), out, context)
            yield first, out

    def _lifted(self, name: str, start: int, stop: int, digests: Sequence[Any]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the values of a chunk whose merged task vector is known, piece by piece."""
        dtype, merged = DTYPES[self.request.types[name]], self.request.lifted[name]
        for first, stored in self.reader.pieces(name, start, stop, digests):
            theta = self.reader.task_vectors(name, first, stored)[0]  # and a look for numbers that are not finite
            out = self.out[: len(theta) * dtype.itemsize].view(dtype)
            tau = merged.block(first, first + len(theta)).astype(theta.dtype)
            self._round(theta, self.device.to_device(tau), out, self.request.contexts.of_tensor(name, first))
            yield first, out

    def _whole(self, name: str, chunks: Sequence[Chunk], digests: Sequence[Sequence[Any]]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the merged values of a tensor in one piece, for operators on whole tensors."""
        values = self.reader.whole(name, chunks, digests, self.request.whole_type(name))
        if values.dtype == np.float32 and not _is_safe(values[1:]):
            values = values.astype(np.float64)
        shaped = self.device.to_device(values)
        statistics = self._statistics(name, dtype=values.dtype)
        context = self.request.contexts.of_tensor(name, base=shaped[0], calibration=statistics)
        merged = self._combined(shaped[1:], self.request.table.at(name), context).reshape(-1)
        out = np.empty(merged.shape, DTYPES[self.request.types[name]])
        self._round(values[0].reshape(-1), merged, out, context)
        yield 0, out

    def _copies(self, name: str, start: int, stop: int, digests: Sequence[Any]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the values of a chunk that is left at the base."""
        dtype = DTYPES[self.request.types[name]]
        for first, (stored,) in self.base_reader.pieces(name, start, stop, digests[:1]):
            if stored.dtype == dtype:
                yield first, stored
                continue
            out = self.out[: len(stored) * dtype.itemsize].view(dtype)
            if (index := convert(stored, out)) is not None:
                raise _out_of_range(f"the copy of tensor '{name}'", out, first + index, "choose a `dtype` with a wider range")
            yield first, out

    def _combined(self, taus: Any, alpha: Sequence[float], context: TensorContext) -> Any:
        """Apply the operators: task vectors (T, ...), which are overwritten, to the merged one (...)."""
        with np.errstate(over="ignore", invalid="ignore"):  # an overflow is the error of `_round`
            try:
                return self.recipe.merge(self.request.contexts.preprocess(self.recipe, taus, context), alpha, context)
            except np.linalg.LinAlgError as error:
                raise UserError(
                    f"the merge of tensor '{context.tensor}': {error}; its numbers or their products are too large or too"
                    " small for this method; exclude the tensor or take another method"
                ) from None

    def _round(self, theta: np.ndarray, merged: Any, out: np.ndarray, context: TensorContext) -> None:
        """Write theta + merged (n,) into `out` (n,), rounded once; a number out of range is a UserError."""
        with np.errstate(over="ignore", invalid="ignore"):
            if not add(theta, self.device.to_host(merged), out):
                index = context.start + (first_not_finite(out) or 0)
                remedy = "lower the coefficients of the method"
                remedy += "" if self.request.dtype is None else ", or choose a `dtype` with a wider range"
                raise _out_of_range(f"the merge of tensor '{context.tensor}'", out, index, remedy)

    def _statistics(self, name: str, start: int = 0, stop: int | None = None, dtype: Any = None) -> list[Any]:
        """Return the calibration of every expert for a tensor, whole in `dtype` or (n,) of it; [] if one expert has none."""
        entries = [checkpoint.entries[name] for checkpoint in self.request.statistics if name in checkpoint.entries]
        if len(entries) < len(self.request.statistics):
            return []
        if stop is not None:
            return [self.device.to_device(each.block(start, stop)) for each in entries]
        return [self.device.to_device(each.block(0, each.size).reshape(each.shape).astype(dtype)) for each in entries]


def _is_safe(taus: np.ndarray) -> bool:
    """Return whether products of four numbers of task vectors (T, ...), which operators take, are in the range of float32."""
    largest = max(float(taus.max()), -float(taus.min()))
    return not largest or 2.0**-30 < largest < 2.0**30


def _out_of_range(what: str, out: np.ndarray, index: int, remedy: str) -> UserError:
    """Return the error for a number that the type of `out` cannot hold, at a flat index of its tensor."""
    return UserError(f"{what} leaves the range of {out.dtype.name} at flat index {index}; expected finite numbers; {remedy}")


def _write_config(file: Path, models: Models, dtype: np.dtype | None) -> None:
    """Write what the layout or another type changes into the config that was copied from the base; None is a removed key."""
    changes = {**models.config, **({"dtype": dtype.name, "torch_dtype": dtype.name} if dtype is not None else {})}
    if file.exists() and changes:
        record = {key: value for key, value in {**read_mapping(file), **changes}.items() if changes.get(key, value) is not None}
        file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


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
