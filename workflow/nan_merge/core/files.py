"""Read and write the small files exchanged between stages: JSON records and tidy tables."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nan_merge.core.atomic import atomic_write
from nan_merge.core.errors import UserError
from nan_merge.core.text import read_json as read_json

CACHED = re.compile(r".*/(models|datasets)--[^/]+/(blobs/([0-9a-f]{40}|[0-9a-f]{64})|snapshots/[0-9a-f]{40}(/.*)?)")


def sha256(path: Path) -> str:
    """Return the SHA-256 of one file as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_cached(real: Path) -> bool:
    """Return whether a path without links is that of a file in the cache of Hugging Face, to which folders of models link."""
    return CACHED.fullmatch(real.as_posix()) is not None


def canonical(value: Any) -> str:
    """Return a value as canonical JSON: sorted keys, no spaces; raise ValueError for NaN and infinities, unknown to JSON."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def write_json(path: Path | str, value: Any) -> None:
    """Write one JSON file, sorted and indented, whole or not at all."""
    text = json.dumps(value, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False)
    with atomic_write(Path(path)) as part:
        part.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")  # of a name that is no UTF-8: JSON reads \udcff


def read_table(path: Path | str) -> list[dict[str, str]]:
    """Read a tab-separated table as strings; the method name `nan` stays a string."""
    try:
        with open(path, encoding="utf-8", newline="") as lines:
            return list(csv.DictReader(lines, delimiter="\t"))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such table") from None


def write_table(path: Path | str, rows: Iterable[Mapping[str, Any]], columns: list[str]) -> None:
    """Write a tab-separated table with the named columns, whole or not at all.

    Floats are written with repr, so reading them back gives the same number. Raises UserError for NaN.
    """
    with atomic_write(Path(path)) as part, open(part, "w", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines, delimiter="\t", lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow([_cell(row[column], path, column) for column in columns])


def _cell(value: Any, path: Path | str, column: str) -> Any:
    if isinstance(value, float) and value != value:
        raise UserError(f"{path}: column {column!r} would hold NaN; expected a number or an empty cell")
    return "" if value is None else value
