"""Every prediction as a table that a person can read, and what has changed between such a table and the arrays.

The table is a second copy of the predictions, by which a changed one is named with method, task and index of the example.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

import numpy as np

from nan_merge.archive.differences import cut
from nan_merge.core.errors import UserError
from nan_merge.core.files import read_json
from nan_merge.data.metrics import FUNCTIONS, MEANS, METRICS, score, standard_error

FOLDER = "predictions"
SPLITS = {"scores": "test", "validation": "validation"}  # folder of the run -> split
EXAMPLE = ["task", "index", "label"]  # the first columns; the others are methods
VALIDATION = "validation_"  # prefix of the names of metrics on that split
Arrays = Mapping[str, np.ndarray]


class Place(NamedTuple):
    """A file of predictions, `results/<split>/<suite>/<method>/seed<seed>/<group>.npz`."""

    split: str
    suite: str
    method: str
    seed: str
    group: str

    @classmethod
    def of(cls, name: str) -> Place | None:
        """Return the place that a path of a run names, None if it is another kind of file."""
        parts = PurePosixPath(name).parts
        if len(parts) != 6 or parts[0] != "results" or parts[1] not in SPLITS or not name.endswith(".npz"):
            return None
        return cls(SPLITS[parts[1]], parts[2], parts[3], parts[4], parts[5].removesuffix(".npz"))

    @property
    def table(self) -> str:
        """The name of the table that this file is a part of."""
        return f"{FOLDER}/{self.split}/{self.suite}/{self.seed}/{self.group}.tsv"

    @property
    def words(self) -> str:
        """What was predicted, in words."""
        return f"{self.method} of {self.suite}, {self.seed.replace('seed', 'seed ')}, {self.split} split"


def read(name: str, file: Path | IO[bytes]) -> dict[str, np.ndarray]:
    """Return the arrays of a file of predictions, `name` in messages; UserError where it is damaged."""
    try:
        with np.load(file) as arrays:
            return dict(arrays)
    except Exception as error:  # of zipfile, zlib and numpy, which have one each
        raise UserError(f"{name}: cannot be read as predictions ({error}); evaluate again, or get the archive again") from None


def tables(files: Mapping[str, Path]) -> dict[str, bytes]:
    """Return the tables of predictions by name: a row an example, a column a method; `files` are by path of the run."""
    grouped: dict[str, dict[str, Arrays]] = {}
    for name, file in sorted(files.items()):
        if place := Place.of(name):
            grouped.setdefault(place.table, {})[place.method] = read(name, file)
    return {name: _table(name, methods) for name, methods in grouped.items()}


def _table(name: str, methods: Mapping[str, Arrays]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, "excel-tab", lineterminator="\n")
    writer.writerow([*EXAMPLE, *methods])
    first = max(methods, key=lambda method: len(tasks_of(methods[method])))  # a complete trial, beside pruned ones
    for task in tasks_of(methods[first]):
        labels = methods[first][f"{task}.label"]
        for method, arrays in methods.items():
            if _lacks(arrays, task, name):
                continue
            if f"{task}.prediction" not in arrays or not np.array_equal(arrays.get(f"{task}.label", ()), labels):
                raise UserError(f"{name}: {task}: {method} was tested on other examples than {first}; evaluate again")
        nothing = np.full(len(labels), "")
        columns = [labels, *(arrays.get(f"{task}.prediction", nothing) for arrays in methods.values())]
        writer.writerows([task, index, *row] for index, row in enumerate(zip(*(c.tolist() for c in columns), strict=True)))
    return text.getvalue().encode()


def _lacks(arrays: Arrays, task: str, table: str) -> bool:
    """Return whether a pruned trial has no predictions of a task; only trials are scored on validation splits."""
    return f"{task}.label" not in arrays and table.startswith(f"{FOLDER}/validation/")


def tasks_of(arrays: Arrays) -> list[str]:
    """Return the tasks whose predictions a file has."""
    return [name.removesuffix(".label") for name in arrays if name.endswith(".label")]


def changed(name: str, table: bytes, files: Mapping[str, Path]) -> Iterator[str]:
    """Yield a sentence for each prediction or label in which the arrays differ from an archived table.

    `files` are all files of predictions by path of the run.
    """
    rows = list(csv.reader(io.StringIO(table.decode("utf-8", "replace"), newline=""), "excel-tab"))
    found = {
        place.method: (place, read(path, file))
        for path, file in files.items()
        if (place := Place.of(path)) and place.table == name
    }
    if not rows or rows[0][: len(EXAMPLE)] != EXAMPLE or sorted(rows[0][len(EXAMPLE) :]) != sorted(found):
        yield f"{name}: its columns are not the methods whose predictions are in the archive"
        return
    if short := next((line for line, row in enumerate(rows, 1) if len(row) != len(rows[0])), None):
        yield f"{name}: line {short} has not the columns of the first"
        return
    by_task: dict[str, list[Sequence[str]]] = {}
    for row in rows[1:]:
        by_task.setdefault(row[0], []).append(row)
    for column, method in enumerate(rows[0]):
        if method in EXAMPLE:
            continue
        place, arrays = found[method]
        for task in sorted({*by_task, *tasks_of(arrays)}):
            kept = by_task.get(task, [])
            if _lacks(arrays, task, name) and not any(row[column] for row in kept):
                continue
            for part, position in (("prediction", column), ("label", EXAMPLE.index("label"))):
                now = [str(value) for value in arrays.get(f"{task}.{part}", np.array([])).tolist()]
                yield from _differences(f"{place.words}, task {task}", part, [row[position] for row in kept], now)


def _differences(where: str, part: str, kept: Sequence[str], now: Sequence[str]) -> Iterator[str]:
    if len(kept) != len(now):
        yield f"{where}: {len(now)} values of {part}, expected {len(kept)}"
    for index, (old, new) in enumerate(zip(kept, now, strict=False)):
        if old != new:
            yield f"{where}, index {index}: {part} {cut(new)}, expected {cut(old)}"


def wrong_scores(name: str, file: Path) -> Iterator[str]:
    """Yield a sentence for each number of a score file (.json) that is not that of the predictions beside it.

    Of benchmarks means over examples alone are counted again: their other numbers need more than the answers.
    """
    record: dict[str, Any] = read_json(file)
    arrays = read(name.replace(".json", ".npz"), file.with_suffix(".npz"))
    benchmark = "backend" in record.get("provenance", {})
    for row in record["scores"]:
        metric, task = str(row["metric"]).removeprefix(VALIDATION), row["task"]
        if metric not in (MEANS if benchmark else (*FUNCTIONS, *METRICS)):
            continue
        prediction, label = (arrays.get(f"{task}.{part}", np.array([])) for part in ("prediction", "label"))
        if not len(label) or prediction.shape != label.shape:
            yield f"{name}: {task}: no predictions beside it"
            continue
        expected: dict[str, Any] = {"value": score(metric, prediction, label), "n": len(label)}
        expected |= {} if benchmark else {"stderr": standard_error(metric, prediction, label)}
        for key, value in expected.items():
            if row[key] != value:
                yield f"{name}: {task}: {key} of {metric} is {row[key]}, the predictions give {value}"
