"""Keep calibration as a checkpoint-like folder: the tensors, and a record of how they came about."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nan_merge.checkpoints.checkpoint import SINGLE, write_tensors
from nan_merge.core.atomic import atomic_write
from nan_merge.core.files import write_json
from nan_merge.core.versions import versions

RECORD = "calibration.json"


def batches(count: int, size: int) -> list[np.ndarray]:
    """Return the indices 0 to `count` - 1 in batches: the first examples of a split, which was shuffled when prepared."""
    return np.split(np.arange(count), range(size, count, size))


def leave_out(encoder: torch.nn.Module, exclude: Sequence[str]) -> None:
    """Mark by `requires_grad` the parameters that are merged; calibration of the others is not wanted."""
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(not any(re.search(pattern, name) for pattern in exclude))


def squares(tensors: Mapping[str, np.ndarray]) -> Iterator[tuple[str, float]]:
    """Yield (name, sum of squares in float64) of every tensor."""
    for name, tensor in tensors.items():
        yield name, float(np.square(tensor, dtype=np.float64).sum())


def write_calibration(folder: Path, tensors: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> None:
    """Write the tensors of one expert's calibration and `calibration.json`, whole or not at all.

    The record gets the versions and, tensor by tensor, the sum of squares: what a norm of the calibration is made of.
    """
    with atomic_write(Path(folder)) as part:
        part.mkdir()
        write_tensors(part / SINGLE, tensors)
        write_json(part / RECORD, {**record, "tensors": dict(squares(tensors)), "versions": versions()})
