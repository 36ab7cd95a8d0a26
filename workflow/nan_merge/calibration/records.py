"""Write calibration as a checkpoint folder with a record of its settings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nan_merge.calibration.sums import RECORD
from nan_merge.checkpoints.checkpoint import SINGLE, write_tensors
from nan_merge.core.atomic import atomic_write
from nan_merge.core.files import write_json
from nan_merge.core.versions import versions


def batches(count: int, size: int) -> list[np.ndarray]:
    """Return the indices 0 to `count` - 1 in batches: the first examples of a split, which was shuffled when prepared."""
    return np.split(np.arange(count), range(size, count, size))


def leave_out(encoder: torch.nn.Module, exclude: Sequence[str]) -> None:
    """Set `requires_grad` for the parameters that are merged only, so that the others get no calibration."""
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(not any(re.search(pattern, name) for pattern in exclude))


def squares(tensors: Mapping[str, np.ndarray]) -> Iterator[tuple[str, float]]:
    """Yield (name, sum of squares in float64) of every tensor."""
    for name, tensor in tensors.items():
        yield name, float(np.square(tensor, dtype=np.float64).sum())


def write_calibration(folder: Path, tensors: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> None:
    """Write the tensors of one expert's calibration and `calibration.json`, whole or not at all.

    The record gets the versions and the sum of squares of every tensor, from which norms of the calibration are computed.
    """
    with atomic_write(Path(folder)) as part:
        part.mkdir()
        write_tensors(part / SINGLE, tensors)
        write_json(part / RECORD, {**record, "tensors": dict(squares(tensors)), "versions": versions()})
