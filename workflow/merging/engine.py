"""Merge checkpoints: the only loop over tensors. Blocks in, blocks out, in constant memory, at any number of threads."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from xxhash import xxh3_128

from merging.cells import Reader, add, first_not_finite
from merging.checkpoints import copy_companions
from merging.coefficients import MODEL, CoefficientTable
from merging.devices import CPU, Device
from merging.fused import linear
from merging.layouts import Chunk, Models
from merging.provenance import publish
from merging.recipe import Recipe
from merging.results import UserError, read_json
from merging.storage import DTYPES, NAMES
from merging.tensors import Progress, Site, compute_type, silent
from merging.workers import share
from merging.writer import Writer

WAITING = 2  # threads, above those that were asked for, since some always wait for the disk to write


def merge(
    models: Models,
    recipe: Recipe,
    table: CoefficientTable,
    thresholds: Mapping[str, Mapping[str, float]],
    output: Path,
    *,
    seed: int = 0,
    dtype: np.dtype | None = None,
    threads: int = 1,
    device: Device = CPU,
    progress: Progress = silent,
    finish: Callable[[Path, dict[str, str]], object] = lambda folder, inputs: None,
) -> None:
    """Write the merged model theta_0 + combine(preprocess(tau_t), c_t) into the folder `output`, whole or not at all.

    The output has the base's files, names, types (or `dtype` for all floats) and order. Tensors stored in 16 bits or
    fewer are computed in float32, wider ones in float64, and rounded once. Tensors that are not merged are copied from
    the base. The bytes do not depend on threads, shards or the order of the experts; on another `device` they may
    differ by rounding. `finish` adds documents to the folder before it appears; it is given the identity of every
    model: the XXH3-128 digest of the tensors that entered.
    """
    if list(models.experts) != list(table.experts):
        raise UserError(f"coefficients are for the experts {list(table.experts)}, the merge has {list(models.experts)}")
    merged, chunks = set(models.merged), models.chunks(models.base.names)
    with publish(output) as part:
        part.mkdir()
        copy_companions(models.base.folder, part)
        _write_config(part / "config.json", models, dtype)
        types = {n: NAMES[dtype] if dtype is not None and e.is_float else e.dtype for n, e in models.base.entries.items()}
        writer = Writer(part, models.base.shards, {n: (types[n], e.shape) for n, e in models.base.entries.items()})

        def worker() -> Callable[[Chunk], list[bytes]]:
            merger = _Merger(models, recipe, table, thresholds, seed, device, types, progress)

            def work(chunk: Chunk) -> list[bytes]:
                digests = [xxh3_128() for _ in models.all]
                blocks = merger.blocks if chunk[0] in merged else merger.copies
                for first, stored in blocks(*chunk, digests):
                    writer.write(chunk[0], first, stored)
                    progress(stored.nbytes)
                return [digest.digest() for digest in digests]

            return work

        try:
            digests = share(chunks, worker, threads + WAITING if threads > 1 else 1)
        finally:
            writer.close()
        finish(part, _identities(models, chunks, digests))


class _Merger:
    """One recipe over one set of models, in the buffers of one thread."""

    def __init__(
        self,
        models: Models,
        recipe: Recipe,
        table: CoefficientTable,
        thresholds: Mapping[str, Mapping[str, float]],
        seed: int,
        device: Device,
        types: Mapping[str, str],
        progress: Progress,
    ) -> None:
        self.models, self.table, self.thresholds, self.seed, self.device = models, table, thresholds, seed, device
        self.preprocess, self.combine = recipe.fused() if device.fused else (recipe.preprocess, recipe.combine)
        self.at_once, self.types = device.fused and recipe.is_linear, types
        self.reader, self.base_reader = (Reader(each, progress, device.step) for each in (models.all, [models.base]))
        self.out = np.empty(8 * max(self.reader.step, self.base_reader.step), np.uint8)

    def blocks(self, name: str, start: int, stop: int, digests: Sequence[Any]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first element, merged values as stored) of a merged chunk; `digests` see what was read."""
        alpha = self.table.at(name)
        cuts = [self._cut(expert, name) for expert in self.models.experts]
        dtype = DTYPES[self.types[name]]
        for first, stored in self.reader.pieces(name, start, stop, digests):
            out = self.out[: len(stored[0]) * dtype.itemsize].view(dtype)
            if self.at_once and linear(stored, alpha, out):
                yield first, out
                continue
            values = self.reader.task_vectors(name, first, stored)
            theta, taus = values[0], self.device.up(values[1:])
            with np.errstate(over="ignore", invalid="ignore"):  # what overflows is the error below
                for t, (expert, cut) in enumerate(zip(self.models.experts, cuts, strict=True)):
                    taus[t] = self.preprocess(taus[t], Site(name, first, expert, self.seed, cut))
                merged = self.combine(taus, alpha, Site(name, first, seed=self.seed))
                if not add(theta, self.device.down(merged), out):
                    index = first + (first_not_finite(out) or 0)
                    raise UserError(
                        f"the merge of tensor '{name}' leaves the range of {dtype.name} at flat index {index}; expected finite"
                        " numbers; lower the coefficients of the method"
                    )
            yield first, out

    def _cut(self, expert: str, name: str) -> float:
        rows = self.thresholds.get(expert, {})
        return rows.get(name, rows.get(MODEL, 0.0))

    def copies(self, name: str, start: int, stop: int, digests: Sequence[Any]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first element, stored values) of a chunk that is left at the base."""
        entry, dtype = self.models.base.entries[name], DTYPES[self.types[name]]
        for first, (stored,) in self.base_reader.pieces(name, start, stop, digests[:1]):
            yield first, stored if stored.dtype == dtype else stored.astype(compute_type(entry.dtype)).astype(dtype)


def _write_config(file: Path, models: Models, dtype: np.dtype | None) -> None:
    """Write what the layout or another type changes into the config that was copied from the base."""
    changes = {**models.config, **({"dtype": dtype.name, "torch_dtype": dtype.name} if dtype is not None else {})}
    if file.exists() and changes:
        file.write_text(json.dumps({**read_json(file), **changes}, indent=2) + "\n", encoding="utf-8")


def _identities(models: Models, chunks: Sequence[Chunk], digests: Sequence[Sequence[bytes]]) -> dict[str, str]:
    """Return by model the XXH3-128 of (name, type, shape, digests of its chunks) of every tensor that was read of it."""
    whole = [xxh3_128() for _ in models.all]
    order = sorted(zip(chunks, digests, strict=True), key=lambda each: each[0])
    for (name, start, _), parts in order:
        for checkpoint, digest, part in zip(models.all, whole, parts, strict=True):
            if name in checkpoint.entries:
                entry = checkpoint.entries[name]
                digest.update(f"{name}\0{entry.dtype}\0{entry.shape}\0{start}\0".encode() + part)
    return {name: digest.hexdigest() for name, digest in zip(("base", *models.experts), whole, strict=True)}
