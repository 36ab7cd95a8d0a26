"""Keep a prepared data set as one folder: `dataset.json` and one pair of memory-mapped arrays a split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from merging.provenance import publish
from merging.results import UserError, read_json, write_json


class Dataset:
    """Read a prepared data set: `record` (dataset.json) and, split by split, inputs and labels."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.record: dict[str, Any] = read_json(self.folder / "dataset.json")

    def inputs(self, split: str) -> np.ndarray:
        """Return a split's inputs: tokens (N, length) uint16 or pixels (N, side, side, 3) uint8."""
        return self._array(split, "inputs")

    def labels(self, split: str) -> np.ndarray:
        """Return a split's class indices, (N,) int64."""
        return self._array(split, "labels")

    def _array(self, split: str, part: str) -> np.ndarray:
        if split not in self.record["splits"]:
            known = ", ".join(self.record["splits"])
            raise UserError(f"{self.folder}: no split {split!r}, only {known}; see `splits:` in config/tasks.yaml")
        return np.load(self.folder / f"{split}.{part}.npy", mmap_mode="r")


def write_dataset(folder: Path | str, record: Mapping[str, Any], splits: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Write a prepared data set, whole or not at all; `record["splits"]` is filled with the sizes.

    Raises UserError for an empty split, inputs and labels of different length or a label outside the classes.
    """
    for split, (inputs, labels) in splits.items():
        _check(f"{folder}: split {split!r}", inputs, labels, len(record["classes"]))
    with publish(Path(folder)) as part:
        part.mkdir(parents=True)
        for split, (inputs, labels) in splits.items():
            np.save(part / f"{split}.inputs.npy", np.ascontiguousarray(inputs))
            np.save(part / f"{split}.labels.npy", np.asarray(labels, dtype=np.int64))
        write_json(part / "dataset.json", {**record, "splits": {name: len(y) for name, (_, y) in splits.items()}})


def _check(where: str, inputs: np.ndarray, labels: np.ndarray, classes: int) -> None:
    if len(inputs) != len(labels):
        raise UserError(f"{where}: {len(inputs)} inputs but {len(labels)} labels; the reader must give one label an input")
    if not len(inputs):
        raise UserError(f"{where}: no example is left; check `splits:` and `arguments:` in config/tasks.yaml")
    if np.min(labels) < 0 or np.max(labels) >= classes:
        raise UserError(f"{where}: labels {np.min(labels)}..{np.max(labels)}, expected 0..{classes - 1} (`classes:`)")
