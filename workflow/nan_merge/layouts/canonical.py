"""Write canonical checkpoints: match a model with its base, copy it block by block, check its distance to the base."""

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
from nan_merge.core.files import write_json
from nan_merge.core.text import read_mapping
from nan_merge.layouts.names import join_first

MAX_RELATIVE_DISTANCE = 0.5  # |tau| / |W_0| of a whole model; fine-tuning moves a model by some percent


@dataclass(frozen=True)
class SourceModel:
    """A model to be written: source folder, tensors by canonical name, content of config.json."""

    folder: Path
    entries: Mapping[str, Tensor]
    config: Mapping[str, Any]


@dataclass
class BaseDistance:
    """Distance of a model to its base and its non-finite numbers, accumulated while it is copied."""

    tau_squared: float = 0.0  # |tau|^2
    base_squared: float = 0.0  # |W_0|^2
    not_finite: dict[str, int] = field(default_factory=dict)  # tensor -> numbers

    def add(self, name: str, stored: np.ndarray, origin: np.ndarray | None) -> None:
        """Add a block of a tensor (n,) and the same block of the base, if any."""
        numbers = stored.astype(np.float64)
        if count := int(np.count_nonzero(~np.isfinite(numbers))):
            self.not_finite[name] = self.not_finite.get(name, 0) + count
        elif origin is not None:
            base = origin.astype(np.float64)
            self.base_squared += float(base @ base)
            numbers -= base
            self.tau_squared += float(numbers @ numbers)


def match_base(expert: SourceModel, base: SourceModel, frozen: Collection[str] = ()) -> SourceModel:
    """Return an expert with the tensors of its base in the base's order; missing `frozen` tensors are taken from the base.

    Raises UserError if another tensor is missing or has another shape: the expert has another backbone.
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
    """Copy an expert that is a canonical checkpoint already, with those of its `files` that exist, checked as in `write`.

    Raises UserError for an expert of another backbone or base, and for NaN and infinities.
    """
    expert, origin = (SourceModel(each, Checkpoint(each).entries, read_mapping(each / "config.json")) for each in (source, base))

    def add(folder: Path) -> None:
        for name in files:
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)

    write(match_base(expert, origin), output, origin, max_relative_distance, add=add)


def write(
    model: SourceModel, output: Path, base: SourceModel | None = None, max_relative_distance: float = MAX_RELATIVE_DISTANCE, *,
    file: str = SINGLE, config: str = "config.json", add: Callable[[Path], object] = lambda folder: None,
) -> None:  # fmt: skip
    """Write a model atomically as the safetensors `file` and `config`; `add` is called with the folder, to add further files.

    An expert has a `base`, from which its |tau| / |W_0| may be at most `max_relative_distance`.
    Raises UserError for a larger distance, which means another base, and for NaN and infinities.
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


def _check(model: SourceModel, base: SourceModel | None, distance: BaseDistance, max_relative_distance: float) -> None:
    if distance.not_finite:
        counts = [f"'{name}' ({count} of {model.entries[name].size})" for name, count in distance.not_finite.items()]
        raise UserError(
            f"{model.folder}: NaN or infinite numbers in {join_first(counts)}; expected finite"
            " numbers. Fetch the model again, or leave it out: its training has failed"
        )
    tau, norm = math.sqrt(distance.tau_squared), math.sqrt(distance.base_squared)
    if base is not None and tau > max_relative_distance * norm:
        raise UserError(
            f"{model.folder}: is no expert of the base {base.folder}: |tau| = {tau:.4g} is {tau / (norm or 1):.2f} of |W_0|"
            f" = {norm:.4g}; expected at most {max_relative_distance:g}. Correct `base:` or `experts:` of the suite; if the"
            " distance is intended, prepare the expert with a greater `--max-relative-distance`"
        )
