"""Read shards of a hub data set, parquet or WebDataset tar: all labels at once, encoded images a few rows at a time.

Both classes have the same interface: `rows`, `names` (of the labels, or None), `labels()`, `blocks()` (ranges of rows that
are read together) and `pictures(rows)`.
"""

from __future__ import annotations

import itertools
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nan_merge.core.errors import UserError
from nan_merge.core.text import parse_json

AGAIN = "remove the folder of the asset and fetch it again"
SLICE = 512  # samples of one block of a tar


class Parquet:
    """One parquet shard: a column of labels and a column of encoded images, plain or {bytes, path} of the `datasets` library."""

    def __init__(self, path: Path, image: str, label: str) -> None:
        self.path, self.image, self.label = path, image, label
        try:
            self._file = pq.ParquetFile(path, memory_map=True, pre_buffer=False)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path}: not a whole parquet file ({_first(error)}); {AGAIN}") from None
        self.rows: int = self._file.metadata.num_rows
        if self.rows > path.stat().st_size:
            raise UserError(f"{path}: claims {self.rows:,} rows in {path.stat().st_size:,} bytes; {AGAIN}")
        self._check()

    def _check(self) -> None:
        self.check_columns({"image": [self.image], "label": [self.label]})
        schema = self._file.schema_arrow
        kind = schema.field(self.image).type
        inner = kind.field("bytes").type if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
        if not (pa.types.is_binary(inner) or pa.types.is_large_binary(inner)):
            raise UserError(f"{self.path}: column {self.image!r} is {kind}, expected encoded images; correct `arguments: image:`")
        kind = schema.field(self.label).type
        if not (pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
            raise UserError(f"{self.path}: column {self.label!r} is {kind}, expected numbers; correct `arguments: label:`")

    def check_columns(self, columns: Mapping[str, Sequence[str]]) -> None:
        """Raise UserError for a column that the file does not have; `columns` are those that each argument names."""
        schema = self._file.schema_arrow
        for key, column in ((key, column) for key, names in columns.items() for column in names):
            if column not in schema.names:
                known = ", ".join(f"{field.name} ({field.type})" for field in schema)
                raise UserError(f"{self.path}: no column {column!r}, found {known}; correct `arguments: {key}:`")

    @property
    def names(self) -> list[str] | None:
        """The label names in the schema's metadata, or None; booleans are named False and True."""
        schema = self._file.schema_arrow
        if pa.types.is_boolean(schema.field(self.label).type):
            return ["False", "True"]
        value = parse_json((schema.metadata or {}).get(b"huggingface", b"{}"), self.path)
        for key in ("info", "features", self.label, "names"):
            value = value.get(key) if isinstance(value, dict) else None
        return [*map(str, value)] if isinstance(value, list) else None

    def labels(self) -> np.ndarray:
        """Return the label of every row, (rows,) int64."""
        return self.column(self.label, "label").cast(pa.int64()).to_numpy()

    def column(self, name: str, key: str) -> pa.ChunkedArray:
        """Return a whole column, which the argument `key` names; raise UserError for a row without a value."""
        column = self._read(lambda: self._file.read(columns=[name], use_threads=False).column(0))
        if column.null_count:
            row = column.is_null().to_pylist().index(True)
            raise UserError(f"{self.path}, row {row}: no {key}, expected a value in {name!r}; correct `arguments: {key}:`")
        return column

    def blocks(self) -> list[range]:
        """Return the rows of each row group."""
        counts = [self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)]
        ends = np.cumsum([0, *counts]).tolist()
        return [range(first, last) for first, last in itertools.pairwise(ends)]

    def pictures(self, rows: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        """Yield (row, encoded image) of some rows of one row group, in ascending order."""
        group, block = next((i, block) for i, block in enumerate(self.blocks()) if rows[0] in block)
        wanted, start = set(rows), block.start
        batches = self._file.iter_batches(batch_size=64, row_groups=[group], columns=[self.image], use_threads=False)
        while start <= max(wanted):
            column = self._read(lambda: next(batches)).column(0)
            for i in (i for i in range(len(column)) if start + i in wanted):
                yield start + i, self._encoded(start + i, column[i].as_py())
            start += len(column)

    def _encoded(self, row: int, value: Any) -> bytes:
        data = value.get("bytes") if isinstance(value, dict) else value
        if not data:
            path = value.get("path") if isinstance(value, dict) else None
            stored = f", only the path {path!r}" if path else ""
            raise UserError(f"{self.path}, row {row}: no image is stored{stored}; expected its bytes; {AGAIN}")
        return data

    def _read(self, read: Any) -> Any:
        try:
            return read()
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{self.path}: damaged ({_first(error)}); {AGAIN}") from None


class Tar:
    """One WebDataset shard: files with a common stem form a sample, suffixes are columns (Aizman et al. 2019)."""

    names = None

    def __init__(self, path: Path, image: str, label: str) -> None:
        self.path, self.image, self.label = path, image, label
        samples: dict[str, dict[str, tuple[int, int]]] = {}
        try:
            with tarfile.open(path, "r:") as bundle:
                for info in (info for info in bundle if info.isfile()):
                    folder, _, name = info.name.rpartition("/")
                    stem, _, column = name.partition(".")
                    if stem and column:
                        samples.setdefault(f"{folder}/{stem}", {})[column] = (info.offset_data, info.size)
                end = bundle.offset
        except (tarfile.TarError, EOFError, OSError) as error:
            raise UserError(f"{path}: not a whole tar file ({_first(error)}); {AGAIN}") from None
        if path.stat().st_size < end + tarfile.BLOCKSIZE:
            raise UserError(f"{path}: not a whole tar file (no end mark); {AGAIN}")
        for row, (name, sample) in enumerate(samples.items()):
            for key, column in (("image", image), ("label", label)):
                if column not in sample:
                    columns = ", ".join(sample)
                    raise UserError(f"{path}, row {row} ({name}): no {column!r}, found {columns}; correct `arguments: {key}:`")
        self._samples = list(samples.values())
        self.rows = len(self._samples)

    def labels(self) -> np.ndarray:
        """Return the label of every row, (rows,) int64."""
        labels = np.zeros(self.rows, np.int64)
        with open(self.path, "rb") as file:
            for row, sample in enumerate(self._samples):
                text = _part(file, *sample[self.label])
                try:
                    labels[row] = int(text)
                except ValueError:
                    raise UserError(
                        f"{self.path}, row {row}: label {text[:40]!r}, expected a number; correct `arguments: label:`"
                    ) from None
        return labels

    def blocks(self) -> list[range]:
        """Return consecutive ranges of at most SLICE rows."""
        return [range(first, min(first + SLICE, self.rows)) for first in range(0, self.rows, SLICE)]

    def pictures(self, rows: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        """Yield (row, encoded image) of some rows, in ascending order."""
        with open(self.path, "rb") as file:
            for row in sorted(rows):
                yield row, _part(file, *self._samples[row][self.image])


def _part(file: Any, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)


def _first(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def open_shard(path: Path, image: str, label: str) -> Parquet | Tar:
    """Open one shard; raise UserError for a damaged shard or missing columns."""
    return (Tar if path.suffix == ".tar" else Parquet)(path, image, label)
