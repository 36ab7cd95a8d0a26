"""Keep evidence as a checkpoint-like folder: the tensors, and a record of how they came about."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from merging.checkpoints import SINGLE, write_tensors
from merging.provenance import publish, versions
from merging.results import write_json

RECORD = "evidence.json"


def batches(count: int, size: int) -> list[np.ndarray]:
    """Return the indices 0 to `count` - 1 in batches: the first examples of a split, which was shuffled when prepared."""
    return np.split(np.arange(count), range(size, count, size))


def leave_out(encoder: torch.nn.Module, exclude: Sequence[str]) -> None:
    """Mark by `requires_grad` the parameters that are merged; evidence of the others is not wanted."""
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(not any(re.search(pattern, name) for pattern in exclude))


def squares(tensors: Mapping[str, np.ndarray]) -> Iterator[tuple[str, float]]:
    """Yield (name, sum of squares in float64) of every tensor."""
    for name, tensor in tensors.items():
        yield name, float(np.square(tensor, dtype=np.float64).sum())


def write_evidence(folder: Path, tensors: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> None:
    """Write the tensors of one expert's evidence and `evidence.json`, whole or not at all.

    The record gets the versions and, tensor by tensor, the sum of squares: what a norm of the evidence is made of.
    """
    with publish(Path(folder)) as part:
        part.mkdir()
        write_tensors(part / SINGLE, tensors)
        write_json(part / RECORD, {**record, "tensors": dict(squares(tensors)), "versions": versions()})
