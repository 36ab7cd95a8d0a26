"""Merge checkpoints: the only loop over tensors. Shards in, shards out, block by block, in constant memory. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from merging.checkpoints import DTYPES, INDEX, Checkpoint, copy_companions, header_bytes
from merging.coefficients import CoefficientTable
from merging.provenance import publish
from merging.recipe import Recipe
from merging.results import UserError, write_json
from merging.tensors import Site, blocks, check_alignment, load_block, merged_names


def merge(
    base: Path,
    experts: Mapping[str, Path],
    recipe: Recipe,
    table: CoefficientTable,
    output: Path,
    *,
    thresholds: Mapping[str, float] | None = None,
    exclude: Sequence[str] = (),
    seed: int = 0,
    provenance: Mapping[str, object] | None = None,
) -> None:
    """Write the merged model theta_0 + combine(preprocess(tau_t), c_t) into the folder `output`, whole or not at all.

    The output has the base's files, names, types and order. Arithmetic is in float32 (float64 for float64 tensors)
    and rounded once. Tensors that are not merged are copied from the base. Experts are visited in the order of
    their names, so the bytes do not depend on the order they are given in.
    """
    origin = Checkpoint(base)
    models = {name: Checkpoint(experts[name]) for name in sorted(experts)}
    if list(models) != list(table.experts):
        raise UserError(f"coefficients are for the experts {list(table.experts)}, the merge has {list(models)}")
    names = set(merged_names(origin, exclude))
    check_alignment(origin, models, sorted(names))
    merger = _Merger(origin, models, recipe, table, dict(thresholds or {}), seed)
    with publish(output) as part:
        part.mkdir()
        copy_companions(base, part)
        if (base / INDEX).exists():
            (part / INDEX).write_bytes((base / INDEX).read_bytes())
        for file, members in origin.shards.items():
            with open(part / file, "wb") as stream:
                stream.write(header_bytes({n: (origin.entries[n].dtype, origin.shape(n)) for n in members}))
                for name in members:
                    merger.write(name, stream) if name in names else _copy(origin, name, stream)
        if provenance is not None:
            write_json(part / "provenance.json", provenance)
    for checkpoint in (origin, *models.values()):
        checkpoint.close()


class _Merger:
    """One recipe over one set of models."""

    def __init__(
        self,
        origin: Checkpoint,
        models: dict[str, Checkpoint],
        recipe: Recipe,
        table: CoefficientTable,
        thresholds: dict[str, float],
        seed: int,
    ) -> None:
        self.origin, self.models, self.recipe, self.table = origin, models, recipe, table
        self.thresholds, self.seed = thresholds, seed

    @np.errstate(over="ignore", invalid="ignore")  # what overflows is an error of _check
    def write(self, name: str, stream: BinaryIO) -> None:
        """Merge one tensor, block after block, and append it to the stream in the base's type."""
        alpha = self.table.at(name)
        dtype = DTYPES[self.origin.entries[name].dtype]
        for block, start, stop in blocks(self.origin.entries[name].size):
            theta = load_block(self.origin, name, start, stop)
            taus = []
            for expert, model in self.models.items():
                site = Site(name, block, expert, self.seed, self.thresholds.get(expert, 0.0))
                taus.append(self.recipe.preprocess(load_block(model, name, start, stop) - theta, site))
            merged = (theta + self.recipe.combine(taus, alpha, Site(name, block, seed=self.seed))).astype(dtype)
            self._check(merged, name, start)
            stream.write(merged.tobytes())

    def _check(self, merged: np.ndarray, name: str, start: int) -> None:
        dtype = merged.dtype
        finite = np.isfinite(merged.astype(np.float32 if dtype.itemsize < 4 else dtype))
        if not finite.all():
            index = start + int(np.argmin(finite))
            raise UserError(
                f"the merge of tensor '{name}' leaves the range of {dtype.name} at flat index {index}; expected finite"
                " numbers; lower the coefficients of the method"
            )


def _copy(origin: Checkpoint, name: str, stream: BinaryIO) -> None:
    for _, start, stop in blocks(origin.entries[name].size):
        stream.write(origin.block(name, start, stop).tobytes())
