"""Prepared data sets, drawn from the splits of a source: a folder with `dataset.json` and two memory-mapped arrays per split."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nan_merge.core.atomic import atomic_write
from nan_merge.core.errors import UserError
from nan_merge.core.files import read_json, write_json

PADDING = 65_535  # in rows of token ids whose tokenizer may use 0, as those of GPT-2 and RoBERTa do
SEED = 0  # of the draws: a data set is the same for every seed of the fine-tuning
SPLIT_ORDER = ("test", "validation", "alignment", "train")  # priority when examples are scarce

Splits = dict[str, tuple[np.ndarray, np.ndarray]]  # split -> inputs, labels


def common_record(task: Mapping[str, Any], classes: Sequence[Any], available: int) -> dict[str, Any]:
    """Return the entries that the records of all readers have; `available` is the number of examples to train on."""
    copied = {key: task.get(key, "") for key in ("label", "source", "licence")}
    return {"task": task.get("id", ""), **copied, "classes": classes, "available": available}


def class_names(task: Mapping[str, Any]) -> list[str]:
    """Return the names of a task's classes, given as {key: name} or as a list of names."""
    classes = task["classes"]
    return [str(name) for name in (classes.values() if isinstance(classes, Mapping) else classes)]


def generator_for(content: bytes) -> np.random.Generator:
    """Return a generator whose numbers depend on the content of one example and nothing else, for its corruption."""
    return np.random.default_rng([SEED, int.from_bytes(hashlib.sha256(content).digest()[:8])])


class Dataset:
    """A prepared data set: `record` (dataset.json), inputs and labels by split."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.record: dict[str, Any] = read_json(self.folder / "dataset.json")

    def inputs(self, split: str) -> np.ndarray:
        """Return a split's inputs: tokens (N, length) uint16 or pixels (N, side, side, 3) uint8."""
        return self._array(split, "inputs")

    def labels(self, split: str) -> np.ndarray:
        """Return a split's class indices, (N,) int64, or numbers to predict, (N,) float32."""
        return self._array(split, "labels")

    def _array(self, split: str, part: str) -> np.ndarray:
        if split not in self.record["splits"]:
            known = ", ".join(self.record["splits"])
            raise UserError(f"{self.folder}: no split {split!r}, only {known}; see `splits:` in config/tasks.yaml")
        return np.load(self.folder / f"{split}.{part}.npy", mmap_mode="r")


def work_folder(output: Path | str) -> Path:
    """Return the folder beside an output for a reader's intermediate results; write_dataset removes it."""
    return Path(output).with_name(f"{Path(output).name}.work")


def write_dataset(folder: Path | str, record: Mapping[str, Any], splits: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Write a prepared data set atomically; `record["splits"]` is set to the sizes.

    Memory maps of whole files in the output's work folder are moved, not copied.
    Raises UserError for an empty split, inputs and labels of different length or a label outside the classes; labels that are
    numbers to predict have no classes.
    """
    for split, (inputs, labels) in splits.items():
        _check(f"{folder}: split {split!r}", inputs, labels, len(record["classes"]))
    with atomic_write(Path(folder)) as part:
        part.mkdir(parents=True)
        for split, (inputs, labels) in splits.items():
            if (finished := _whole_map(inputs, work_folder(folder))) is not None:
                _move(finished, part / f"{split}.inputs.npy")
            else:
                np.save(part / f"{split}.inputs.npy", np.ascontiguousarray(inputs))
            np.save(part / f"{split}.labels.npy", labels if is_number(labels) else np.asarray(labels, dtype=np.int64))
        write_json(part / "dataset.json", {**record, "splits": {name: len(y) for name, (_, y) in splits.items()}})
    shutil.rmtree(work_folder(folder), ignore_errors=True)


def draw_rows(origin: Mapping[str, str], wanted: Mapping[str, int], rows: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Return, for each split of the sizes `wanted`, rows of its `origin`, a split of the source with so many `rows`.

    A split that uses its source's split alone and wants at least its size gets all rows in order. Otherwise rows are drawn
    with seed 0: train from the front of a permutation, the others from its end, so splits are disjoint and train does not
    change when validation grows. Scarce rows go to test first and to train last. A drawn test is sorted.
    """
    taken: dict[str, np.ndarray] = {}
    for source in dict.fromkeys(origin.values()):
        sharing = [split for split in SPLIT_ORDER if origin.get(split) == source and split in wanted]
        if len(sharing) == 1 and wanted[sharing[0]] >= rows[source]:
            taken[sharing[0]] = np.arange(rows[source])
            continue
        left = np.random.default_rng(SEED).permutation(rows[source])
        for split in sharing:
            count = min(wanted[split], len(left))
            part, left = (left[:count], left) if split == "train" else (left[len(left) - count :], left[: len(left) - count])
            taken[split] = np.sort(part) if split == "test" else part
    return {split: taken[split] for split in wanted}


def is_number(labels: np.ndarray) -> bool:
    """Return whether labels are numbers to predict, not class indices."""
    return np.asarray(labels).dtype.kind == "f"


def _whole_map(inputs: np.ndarray, work: Path) -> Path | None:
    """Return the .npy file in the work folder that an array maps as a whole, or None."""
    if not isinstance(inputs, np.memmap) or inputs.filename is None:
        return None
    file = Path(inputs.filename).resolve()
    inside = file.parent == work.resolve() and np.load(file, mmap_mode="r").shape == inputs.shape
    return file if inside else None


def _move(source: Path, target: Path) -> None:
    """Hard-link a file, so the source survives if this process is killed; rename it on file systems without links."""
    try:
        os.link(source, target)
    except OSError:
        os.replace(source, target)


def _check(where: str, inputs: np.ndarray, labels: np.ndarray, classes: int) -> None:
    if len(inputs) != len(labels):
        raise UserError(f"{where}: {len(inputs)} inputs but {len(labels)} labels; expected one label per input from the reader")
    if not len(inputs):
        raise UserError(f"{where}: no example is left; check `splits:` and `arguments:` in config/tasks.yaml")
    if not is_number(labels) and (np.min(labels) < 0 or np.max(labels) >= classes):
        raise UserError(f"{where}: labels {np.min(labels)}..{np.max(labels)}, expected 0..{classes - 1} (`classes:`)")
