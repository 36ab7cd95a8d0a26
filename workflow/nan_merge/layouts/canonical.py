"""Bring a model to the narrow waist: compare it with its base, copy it block by block, publish it whole. No torch."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nan_merge.checkpoints.checkpoint import SINGLE, Checkpoint
from nan_merge.checkpoints.safetensors_file import Tensor
from nan_merge.checkpoints.writer import Writer
from nan_merge.core.atomic import atomic_write
from nan_merge.core.blocks import WORK_UNIT, spans
from nan_merge.core.errors import UserError
from nan_merge.core.files import read_json, write_json
from nan_merge.layouts.names import join_first

MAX_RELATIVE_DISTANCE = 0.5  # |tau| / |W_0| of a whole model; fine-tuning moves a model by some percent


@dataclass(frozen=True)
class SourceModel:
    """A model to be written: where it lies, its tensors by the names that they shall have, its config."""

    folder: Path
    entries: Mapping[str, Tensor]
    config: Mapping[str, Any]


@dataclass
class BaseDistance:
    """How far a model is from its base, and what of it is no number, counted while it is copied."""

    moved: float = 0.0  # |tau|^2
    whole: float = 0.0  # |W_0|^2
    broken: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, stored: np.ndarray, origin: np.ndarray | None) -> None:
        """Count a block of a tensor (n,) with that of the base, if there is one."""
        numbers = stored.astype(np.float64)
        if bad := int(np.count_nonzero(~np.isfinite(numbers))):
            self.broken[name] = self.broken.get(name, 0) + bad
        elif origin is not None:
            base = origin.astype(np.float64)
            self.whole += float(base @ base)
            numbers -= base
            self.moved += float(numbers @ numbers)


def match_base(expert: SourceModel, base: SourceModel, frozen: Collection[str] = ()) -> SourceModel:
    """Return an expert with the names of its base, in their order; tensors that are `frozen` may be the base's.

    Raises UserError for an expert of another backbone: a tensor is missing or has another shape.
    """
    entries, wrong = {}, []
    for name, origin in base.entries.items():
        tensor = expert.entries.get(name, origin if name in frozen else None)
        if tensor is None:
            wrong.append(f"no '{name}'")
        elif tensor.shape != origin.shape:
            wrong.append(f"'{name}' is {list(tensor.shape)}, not {list(origin.shape)}")
        else:
            entries[name] = tensor
    if wrong:
        raise UserError(
            f"{expert.folder}: {len(wrong)} of {len(base.entries)} tensors do not match the base {base.folder}:"
            f" {join_first(wrong)}; expected an expert with the backbone of the base. Correct `base:` or `experts:` of the suite"
        )
    return SourceModel(expert.folder, entries, base.config)


def copy_expert(source: Path, output: Path, base: Path, max_relative_distance: float, files: Collection[str] = ()) -> None:
    """Copy an expert that lies in the narrow waist, with those of its `files` that are there, after the checks of `write`.

    Raises UserError for an expert of another backbone or base, and for NaN and infinities.
    """
    expert, origin = (SourceModel(each, Checkpoint(each).entries, read_json(each / "config.json")) for each in (source, base))

    def add(folder: Path) -> None:
        for name in files:
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)

    write(match_base(expert, origin), output, origin, max_relative_distance, add=add)


def write(
    model: SourceModel, output: Path, base: SourceModel | None = None, max_relative_distance: float = MAX_RELATIVE_DISTANCE, *,
    file: str = SINGLE, config: str = "config.json", add: Callable[[Path], object] = lambda folder: None,
) -> None:  # fmt: skip
    """Write a model as one safetensors file and a config, with what `add` puts into the folder, whole or not at all.

    Raises UserError for NaN and infinities, and for an expert that is farther from its `base` than a share `max_relative_distance`
    of the base's norm, so that it is an expert of another base.
    """
    kinds = {name: (tensor.dtype, tensor.shape) for name, tensor in model.entries.items()}
    distance = BaseDistance()
    with atomic_write(Path(output)) as part:
        part.mkdir()
        writer = Writer(part, {file: list(kinds)}, kinds)
        for name, tensor in model.entries.items():
            for start, stop in spans(tensor.size, WORK_UNIT):
                stored = tensor.block(start, stop)
                writer.write(name, start, stored)
                distance.add(name, stored, None if base is None else base.entries[name].block(start, stop))
        writer.close()
        write_json(part / config, dict(model.config))
        add(part)
        _check(model, base, distance, max_relative_distance)


def _check(model: SourceModel, base: SourceModel | None, found: BaseDistance, max_relative_distance: float) -> None:
    if found.broken:
        counts = [f"'{name}' ({count} of {model.entries[name].size})" for name, count in found.broken.items()]
        raise UserError(
            f"{model.folder}: NaN or infinite numbers in {join_first(counts)}; expected finite"
            " ones. Fetch the model again, or leave it out: its training has failed"
        )
    moved, whole = math.sqrt(found.moved), math.sqrt(found.whole)
    if base is not None and moved > max_relative_distance * whole:
        raise UserError(
            f"{model.folder}: is no expert of the base {base.folder}: |tau| = {moved:.4g} is {moved / (whole or 1):.2f} of |W_0|"
            f" = {whole:.4g}; expected at most {max_relative_distance:g}. Correct `base:` or `experts:` of the suite; where the distance is"
            " meant, prepare the expert with a greater `--max-relative-distance`"
        )
