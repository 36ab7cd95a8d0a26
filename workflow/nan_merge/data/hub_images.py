"""Prepare an image data set of the hub: check it against its task, draw the splits, decode, resize and crop once.

A task's `arguments`: `origin`, which split of the source each split is cut from; `counts`, the rows that the source's splits
must have; `image` and `label`, the columns; `config`, the configuration, where the source has several; `first_label`, the
number of the first class (0).
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from nan_merge.core.errors import UserError
from nan_merge.core.files import canonical, read_json
from nan_merge.core.parallel import available_processors
from nan_merge.data.class_order import check_order
from nan_merge.data.dataset import work_folder
from nan_merge.data.decoding import Work, units
from nan_merge.data.draws import SEED, available_rows, draw_rows
from nan_merge.data.hub_cards import label_names, split_files
from nan_merge.data.shards import AGAIN, Parquet, Tar, open_shard

Parts = dict[str, tuple[np.ndarray, np.ndarray]]
Shards = list[Parquet | Tar]


def prepare(
    task: Mapping[str, Any],
    sources: Mapping[str, Path],
    form: Mapping[str, Any],
    output: Path | None = None,
    processes: int | None = None,
) -> tuple[dict[str, Any], Parts]:
    """Return the record of one task and its splits: pixels (N, side, side, 3) uint8 and class indices (N,) int64.

    `sources` holds the folder of the task's one asset, `form["side"]` the width of the images, `form["crop"]` how an odd
    remainder is halved (`decoding.square`). With `output` the pixels are memory maps in a work folder beside it: what a
    killed run has decoded is taken up again, and `write_dataset` moves them to their place. The bytes do not depend on
    `processes` (default: all processors).
    Raises UserError, with the task's name, for whatever in the source is not as the task says.
    """
    try:
        return _prepare(task, Path(sources[task["assets"][0]]), form, output, processes or available_processors())
    except UserError as error:
        raise UserError(f"task {task.get('id') or task['label']}: {error}") from None


def _prepare(
    task: Mapping[str, Any], folder: Path, form: Mapping[str, Any], output: Path | None, processes: int
) -> tuple[dict[str, Any], Parts]:
    if task["reader"] != "hub_images.table":
        raise UserError(f"unknown reader {task['reader']!r} (config/tasks.yaml); known: hub_images.table")
    arguments, classes = task["arguments"], task["classes"]
    origin = {split: arguments["origin"].get(split) for split in task["splits"]}
    if missing := [split for split, source in origin.items() if source is None]:
        raise UserError(f"`arguments: origin:` does not say where {missing[0]} is cut from (config/tasks.yaml)")
    first, total = arguments.get("first_label", 0), len(classes)
    found = {name: _shards(folder, name, arguments) for name in dict.fromkeys(origin.values())}
    order = check_order(classes, _stated(folder, found.values(), arguments), first)
    labels = {name: np.concatenate([_indices(shard, total, first) for shard in shards]) for name, shards in found.items()}
    if not order["by"]:
        _every_class(labels.values(), total)
    counts = {name: len(rows) for name, rows in labels.items()}
    taken = draw_rows(origin, task["splits"], counts)
    if empty := [split for split, rows in taken.items() if not len(rows)]:
        raise UserError(f"no image is left for {empty[0]}, the source has {counts} rows; correct `splits:` in config/tasks.yaml")
    record = {
        "task": task.get("id", ""), "label": task["label"], "source": task.get("source", ""), "licence": task.get("licence", ""),
        "classes": [str(word) for word in (classes.values() if isinstance(classes, Mapping) else classes)], "order": order,
        "splits": {split: len(rows) for split, rows in taken.items()}, "available": available_rows(origin, taken, counts),
        "side": form["side"], "crop": form.get("crop", "floor"), "seed": SEED, "pillow": PIL.__version__,
        "origin": origin, "counts": counts, "digest": _digest(folder, found),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        work = work_folder(output) if output else Path(scratch) / "work"
        pixels = _decoded(found, origin, taken, record, work, processes)
        return record, {
            split: (pixels[split] if output else np.array(pixels[split]), labels[origin[split]][rows])
            for split, rows in taken.items()
        }


def _every_class(labels: Iterable[np.ndarray], total: int) -> None:
    """Where the source names no classes, at least their number can be compared."""
    seen = np.unique(np.concatenate(list(labels)))
    if len(seen) != total:
        raise UserError(f"the source has labels of {len(seen)} classes, expected {total} (`classes:`); is it another data set?")


def _shards(folder: Path, name: str, arguments: Mapping[str, Any]) -> Shards:
    """Open the shards of one split of the source and compare their rows with `counts`."""
    files = split_files(folder, name, arguments.get("config"))
    for file in files:
        _whole(folder, file)
    shards = [open_shard(file, arguments.get("image", "image"), arguments.get("label", "label")) for file in files]
    expected, rows = arguments.get("counts", {}).get(name), sum(shard.rows for shard in shards)
    if expected not in (None, rows):
        raise UserError(
            f"split {name!r} of {folder}: expected {expected} rows (`arguments: counts:` in config/tasks.yaml), found {rows} in"
            f" {len(files)} shards, {files[0].relative_to(folder)} the first; wrong configuration or revision, or an incomplete"
            " download: fetch the asset again, or correct `counts:`"
        )
    if not rows:
        raise UserError(f"split {name!r} of {folder}: no row in {len(files)} shards; fetch the asset again, or another revision")
    return shards


def _whole(folder: Path, file: Path) -> None:
    """Compare the size of a shard with the one that was written down when it was fetched."""
    record = read_json(folder / "asset.json") if (folder / "asset.json").is_file() else {}
    expected = record.get("files", {}).get(str(file.relative_to(folder)), {}).get("size")
    if expected not in (None, found := file.stat().st_size):
        raise UserError(f"{file}: expected {expected} bytes (asset.json), found {found}; {AGAIN}")


def _indices(shard: Parquet | Tar, classes: int, first: int) -> np.ndarray:
    labels = shard.labels() - first
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise UserError(
            f"{shard.path}, row {wrong[0]}: label {labels[wrong[0]] + first}, expected {first} to {first + classes - 1} for the"
            f" {classes} `classes:`; correct them, or set `arguments: first_label:` where labels do not begin at {first}"
        )
    return labels


def _stated(folder: Path, found: Iterable[Shards], arguments: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return all lists of label names that the source states, by file; equal ones once."""
    stated = label_names(folder, arguments.get("label", "label"), arguments.get("config"))
    for shard in (shard for shards in found for shard in shards):
        if shard.names is not None and shard.names not in stated.values():
            stated[str(shard.path.relative_to(folder))] = shard.names
    return stated


def _decoded(
    found: Mapping[str, Shards],
    origin: Mapping[str, str],
    taken: Mapping[str, np.ndarray],
    record: Mapping[str, Any],
    folder: Path,
    processes: int,
) -> dict[str, np.ndarray]:
    """Decode the drawn rows into the work folder and return the arrays, mapped."""
    shards, wanted = [], []
    for name, own in found.items():
        ends = np.cumsum([0, *(shard.rows for shard in own)])
        places: list[dict[int, tuple[str, int]]] = [{} for _ in own]
        for split in (split for split in taken if origin[split] == name):
            owners = np.searchsorted(ends, taken[split], side="right") - 1
            for position, (row, owner) in enumerate(zip(taken[split].tolist(), owners.tolist(), strict=True)):
                places[owner][row - int(ends[owner])] = (split, position)
        shards += own
        wanted += places
    stats = {str(shard.path): [shard.path.stat().st_size, shard.path.stat().st_mtime_ns] for shard in shards}
    rows = {split: hashlib.sha256(drawn.tobytes()).hexdigest() for split, drawn in taken.items()}
    plan = {"record": record, "shards": stats, "rows": rows}
    work = Work(folder, plan, record["splits"], record["side"], record["crop"])
    work.run(units(shards, wanted), processes)
    return {split: np.load(work.array(split), mmap_mode="r") for split in taken}


def _digest(folder: Path, found: Mapping[str, Shards]) -> str:
    """Digest what the source is: its asset.json, or without one the names and sizes of its shards."""
    if (folder / "asset.json").is_file():
        content = read_json(folder / "asset.json")
    else:
        files = [shard.path for shards in found.values() for shard in shards]
        content = {str(file.relative_to(folder)): file.stat().st_size for file in files}
    return hashlib.sha256(canonical(content).encode()).hexdigest()
