"""Check what was fetched of a hub data set against its task, and draw the splits of the task from those of the source."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nan_merge.core.errors import UserError
from nan_merge.core.files import canonical, read_json
from nan_merge.data.dataset import draw_rows
from nan_merge.data.hub_cards import split_files
from nan_merge.data.shards import AGAIN


def origins(task: Mapping[str, Any]) -> dict[str, str]:
    """Return the source's split that each split of a task is cut from; raise UserError for a split without one."""
    origin = {split: task["arguments"]["origin"].get(split) for split in task["splits"]}
    if missing := [split for split, source in origin.items() if source is None]:
        raise UserError(f"`arguments: origin:` has no entry for {missing[0]} (config/tasks.yaml)")
    return origin


def drawn(task: Mapping[str, Any], origin: Mapping[str, str], counts: Mapping[str, int]) -> tuple[dict[str, np.ndarray], int]:
    """Return the rows of every split in its source, and how many rows there are to train on; UserError for an empty split."""
    taken = draw_rows(origin, task["splits"], counts)
    if empty := [split for split, rows in taken.items() if not len(rows)]:
        found = f"no example is left for {empty[0]}, the source has {counts} rows"
        raise UserError(f"{found}; correct `splits:` in config/tasks.yaml")
    others = sum(len(rows) for split, rows in taken.items() if split != "train" and origin[split] == origin.get("train"))
    return taken, counts[origin["train"]] - others if "train" in origin else 0


def fetched_shards(folder: Path, split: str, config: str | None) -> list[Path]:
    """Return the shards of one split of the source; raise UserError for another size than fetched."""
    files = split_files(folder, split, config)
    record = read_json(folder / "asset.json") if (folder / "asset.json").is_file() else {}
    for file in files:
        fetched = record.get("files", {}).get(str(file.relative_to(folder)), {}).get("size")
        if fetched not in (None, size := file.stat().st_size):
            raise UserError(f"{file}: expected {fetched} bytes (asset.json), found {size}; {AGAIN}")
    return files


def check_rows(folder: Path, split: str, files: Sequence[Path], rows: int, arguments: Mapping[str, Any]) -> None:
    """Raise UserError for a split without rows, or with another number of rows than `counts` says."""
    expected = arguments.get("counts", {}).get(split)
    if expected not in (None, rows):
        raise UserError(
            f"split {split!r} of {folder}: expected {expected} rows (`arguments: counts:` in config/tasks.yaml), found {rows} in"
            f" {len(files)} shards, {files[0].relative_to(folder)} the first; wrong configuration or revision, or an incomplete"
            " download: fetch the asset again, or correct `counts:`"
        )
    if not rows:
        raise UserError(f"split {split!r} of {folder}: no row in {len(files)} shards; fetch the asset again, or another revision")


def source_digest(folder: Path, files: Sequence[Path]) -> str:
    """Digest a source by its asset.json, or without one by the names and sizes of its shards."""
    if (folder / "asset.json").is_file():
        content = read_json(folder / "asset.json")
    else:
        content = {str(file.relative_to(folder)): file.stat().st_size for file in files}
    return hashlib.sha256(canonical(content).encode()).hexdigest()
