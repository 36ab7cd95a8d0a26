"""Prepare an image data set of the hub: check it against its task, draw the splits, decode, resize and crop once.

Keys of a task's `arguments`: `origin`, the source's split of each split; `counts`, the expected rows of the source's splits;
`image` and `label`, the columns (default: these names); `config`, the configuration of the source; `first_label`, the number
of the first class (default 0).
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
from nan_merge.core.parallel import available_processors
from nan_merge.data.corruptions import corrupt_pictures
from nan_merge.data.dataset import SEED, Splits, class_names, common_record, work_folder
from nan_merge.data.decoding import Work, cut_units
from nan_merge.data.hub_cards import check_order, label_names
from nan_merge.data.hub_sources import check_rows, drawn, fetched_shards, origins, source_digest
from nan_merge.data.shards import Parquet, Tar, open_shard

Shards = list[Parquet | Tar]


def prepare(
    task: Mapping[str, Any], sources: Mapping[str, Path], form: Mapping[str, Any], output: Path | None = None,
    processes: int | None = None,
) -> tuple[dict[str, Any], Splits]:  # fmt: skip
    """Return the record of one task and its splits: pixels (N, side, side, 3) uint8 and class indices (N,) int64.

    `form` is the suite's `input:`: `side`, the width in pixels, and `crop`, floor (default) or round (`decoding.square`),
    perhaps `resize`, the shorter side of a picture before it is cropped, with `corrupt` where the pictures of test are corrupted.
    With `output` the pixels are memory maps in a work folder beside it, where an interrupted run resumes; `write_dataset`
    moves them to their place. Without it they are arrays in memory. The number of decoding `processes` (default: all
    processors) does not change the bytes. Raises UserError for a source that does not match the task.
    """
    try:
        return _prepare(task, Path(sources[task["assets"][0]]), form, output, processes or available_processors())
    except UserError as error:
        raise UserError(f"task {task.get('id') or task['label']}: {error}") from None


def _prepare(
    task: Mapping[str, Any], folder: Path, form: Mapping[str, Any], output: Path | None, processes: int
) -> tuple[dict[str, Any], Splits]:
    if task["reader"] != "hub_images.table":
        raise UserError(f"unknown reader {task['reader']!r} (config/tasks.yaml); known: hub_images.table")
    arguments, classes = task["arguments"], task["classes"]
    origin = origins(task)
    first, total = arguments.get("first_label", 0), len(classes)
    shards = {name: _shards(folder, name, arguments) for name in dict.fromkeys(origin.values())}
    order = check_order(classes, _stated(folder, shards.values(), arguments), first)
    labels = {name: np.concatenate([_indices(shard, total, first) for shard in some]) for name, some in shards.items()}
    if not order["by"] and (seen := len(np.unique(np.concatenate(list(labels.values()))))) != total:
        raise UserError(f"the source has labels of {seen} classes, expected {total} (`classes:`); is it another data set?")
    counts = {name: len(rows) for name, rows in labels.items()}
    taken, available = drawn(task, origin, counts)
    record = {
        **common_record(task, class_names(task), available),
        "order": order, "splits": {split: len(rows) for split, rows in taken.items()},
        "side": form["side"], "crop": form.get("crop", "floor"), **_resized(form), "seed": SEED, "pillow": PIL.__version__,
        "origin": origin, "counts": counts,
        "digest": source_digest(folder, [shard.path for some in shards.values() for shard in some]),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        work = work_folder(output) if output else Path(scratch) / "work"
        pixels = _decoded(shards, taken, record, work, processes)
        if "corrupt" in form:
            pixels["test"] = corrupt_pictures(pixels["test"], **form["corrupt"], file=work / "corrupted.npy")
        return record, {
            split: (pixels[split] if output else np.array(pixels[split]), labels[origin[split]][rows])
            for split, rows in taken.items()
        }


def _resized(form: Mapping[str, Any]) -> dict[str, int]:
    """Return the entry of the record on `resize`; raise UserError for one below `side`, which leaves no crop of that width."""
    if (size := form.get("resize")) is None:
        return {}
    if size < form["side"]:
        raise UserError(f"`input: resize:` of the suite is {size}, below `side`, {form['side']}; expected at least that")
    return {"resize": size}


def _shards(folder: Path, name: str, arguments: Mapping[str, Any]) -> Shards:
    """Open the shards of one split; raise UserError for another number of rows than `counts` or other sizes than fetched."""
    files = fetched_shards(folder, name, arguments.get("config"))
    shards = [open_shard(file, arguments.get("image", "image"), arguments.get("label", "label")) for file in files]
    check_rows(folder, name, files, sum(shard.rows for shard in shards), arguments)
    return shards


def _indices(shard: Parquet | Tar, classes: int, first: int) -> np.ndarray:
    labels = shard.labels() - first
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise UserError(
            f"{shard.path}, row {wrong[0]}: label {labels[wrong[0]] + first}, expected {first} to {first + classes - 1} for the"
            f" {classes} `classes:`; correct them, or set `arguments: first_label:` where labels do not begin at {first}"
        )
    return labels


def _stated(folder: Path, splits: Iterable[Shards], arguments: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the lists of label names in the source by file, equal lists once."""
    stated = label_names(folder, arguments.get("label", "label"), arguments.get("config"))
    for shard in (shard for shards in splits for shard in shards):
        if shard.names is not None and shard.names not in stated.values():
            stated[str(shard.path.relative_to(folder))] = shard.names
    return stated


def _decoded(
    sources: Mapping[str, Shards], taken: Mapping[str, np.ndarray], record: Mapping[str, Any], folder: Path, processes: int
) -> dict[str, np.ndarray]:
    """Decode the drawn rows into the work folder and return the memory-mapped arrays."""
    shards, wanted = [], []
    for name, some in sources.items():
        ends = np.cumsum([0, *(shard.rows for shard in some)])
        places: list[dict[int, tuple[str, int]]] = [{} for _ in some]
        for split in (split for split in taken if record["origin"][split] == name):
            owners = np.searchsorted(ends, taken[split], side="right") - 1
            for position, (row, owner) in enumerate(zip(taken[split].tolist(), owners.tolist(), strict=True)):
                places[owner][row - int(ends[owner])] = (split, position)
        shards += some
        wanted += places
    stats = {str(shard.path): [shard.path.stat().st_size, shard.path.stat().st_mtime_ns] for shard in shards}
    rows = {split: hashlib.sha256(drawn.tobytes()).hexdigest() for split, drawn in taken.items()}
    plan = {"record": record, "shards": stats, "rows": rows}
    work = Work(folder, plan, record["splits"], record["side"], record["crop"], record.get("resize"))
    work.run(cut_units(shards, wanted), processes)
    return {split: np.load(work.array(split), mmap_mode="r") for split in taken}
