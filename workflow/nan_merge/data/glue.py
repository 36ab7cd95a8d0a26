"""Prepare a task of GLUE from the hub's parquet: texts or pairs of texts as rows of tokens (Wang et al., arXiv 1804.07461).

Keys of a task's `arguments`: `texts`, the columns of a text or of both texts of a pair; `origin`, the source's split of each
split; `counts`, the expected rows of the source's splits; `label`, the column (default: label); `config`, the configuration.
The labels of GLUE's test split are hidden, so its validation split is the test split here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nan_merge.core.errors import UserError
from nan_merge.data.dataset import SEED, Splits, common_record
from nan_merge.data.hub_cards import check_order, label_names
from nan_merge.data.hub_sources import check_rows, drawn, fetched_shards, origins, source_digest
from nan_merge.data.shards import Parquet
from nan_merge.data.texts import encode
from nan_merge.data.typos import with_typos

READERS = ("glue.table",)


class Table(Parquet):
    """One parquet shard with columns of texts and a column of labels: class numbers, or any numbers."""

    def __init__(self, path: Path, texts: Sequence[str], label: str, numbers: bool) -> None:
        """Open a shard; raise UserError for missing columns and columns of other types."""
        self.texts, self.numbers = list(texts), numbers
        super().__init__(path, "", label)

    def _check(self) -> None:
        self.check_columns({"texts": self.texts, "label": [self.label]})
        schema = self._file.schema_arrow
        for name in self.texts:
            if not (pa.types.is_string(kind := schema.field(name).type) or pa.types.is_large_string(kind)):
                raise UserError(f"{self.path}: column {name!r} is {kind}, expected texts; correct `arguments: texts:`")
        kind = schema.field(self.label).type
        if not (pa.types.is_floating(kind) if self.numbers else pa.types.is_integer(kind)):
            wanted, also = ("numbers", "numbers with decimals") if self.numbers else ("names", "class numbers")
            raise UserError(
                f"{self.path}: column {self.label!r} is {kind}, expected {also} (`labels:` of the task are {wanted}); correct"
                " `arguments: label:`"
            )

    def labels(self) -> np.ndarray:
        """Return the label of every row: (rows,) int64, or float32 where labels are numbers."""
        return self.column(self.label, "label").to_numpy().astype(np.float32 if self.numbers else np.int64)

    def rows_of_texts(self) -> list[str] | list[tuple[str, str]]:
        """Return the text, or the pair of texts, of every row."""
        columns = [self.column(name, "texts").to_pylist() for name in self.texts]
        return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))


def prepare(task: Mapping[str, Any], sources: Mapping[str, Path], form: Mapping[str, Any]) -> tuple[dict[str, Any], Splits]:
    """Return the record of one task and its splits: tokens (N, length) uint16, and class indices int64 or numbers float32.

    `form` is the suite's `input:`, {"tokenizer": asset id, "length": tokens}; rows are padded by `dataset.PADDING`. Texts are
    taken as they are, duplicates too; with `corrupt` in the form those of test have typos. Raises UserError for a source that
    does not match the task.
    """
    try:
        vocabulary = Path(sources[form["tokenizer"]]) / "tokenizer.json"
        return _prepare(task, Path(sources[task["assets"][0]]), vocabulary, form)
    except UserError as error:
        raise UserError(f"task {task.get('id') or task['label']}: {error}") from None


def _prepare(task: Mapping[str, Any], folder: Path, vocabulary: Path, form: Mapping[str, Any]) -> tuple[dict[str, Any], Splits]:
    if task["reader"] not in READERS:
        raise UserError(f"unknown reader {task['reader']!r} (config/tasks.yaml); known: {', '.join(READERS)}")
    arguments, origin, numbers = task["arguments"], origins(task), task["labels"] == "number"
    if not 1 <= len(arguments["texts"]) <= 2:
        raise UserError(f"`arguments: texts:` has {len(arguments['texts'])} columns; name one, or both of a pair")
    tables = {split: _tables(folder, split, arguments, numbers) for split in dict.fromkeys(origin.values())}
    classes = ["number"] if numbers else task["labels"]
    order = {} if numbers else {"order": check_order(classes, _stated(folder, tables, arguments), option="labels")}
    labels = {split: _labels(some, None if numbers else len(classes)) for split, some in tables.items()}
    counts = {split: len(found) for split, found in labels.items()}
    taken, available = drawn(task, origin, counts)
    record = {
        **common_record(task, classes, available), **order, "length": form["length"], "seed": SEED, "origin": origin,
        "counts": counts, "digest": source_digest(folder, [table.path for some in tables.values() for table in some]),
    }  # fmt: skip
    texts = {split: [text for table in some for text in table.rows_of_texts()] for split, some in tables.items()}
    chosen = {split: [texts[origin[split]][row] for row in rows] for split, rows in taken.items()}
    if "corrupt" in form:
        chosen["test"] = with_typos(chosen["test"], form["corrupt"]["strength"])
    return record, {
        split: (encode(chosen[split], vocabulary, form["length"]), labels[origin[split]][rows]) for split, rows in taken.items()
    }


def _tables(folder: Path, split: str, arguments: Mapping[str, Any], numbers: bool) -> list[Table]:
    files = fetched_shards(folder, split, arguments.get("config"))
    tables = [Table(file, arguments["texts"], arguments.get("label", "label"), numbers) for file in files]
    check_rows(folder, split, files, sum(table.rows for table in tables), arguments)
    return tables


def _stated(folder: Path, tables: Mapping[str, list[Table]], arguments: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the lists of label names in the source by file."""
    stated = label_names(folder, arguments.get("label", "label"), arguments.get("config"))
    named = {str(table.path.relative_to(folder)): table.names for some in tables.values() for table in some}
    return stated | {file: names for file, names in named.items() if names is not None}


def _labels(tables: Sequence[Table], classes: int | None) -> np.ndarray:
    """Return the labels of all shards; raise UserError for one outside the classes, or that is no finite number."""
    found = []
    for table in tables:
        labels = table.labels()
        wrong = ~np.isfinite(labels) if classes is None else (labels < 0) | (labels >= classes)
        if wrong.any():
            row = int(np.argmax(wrong))
            expected = "a finite number" if classes is None else f"0 to {classes - 1}"
            hidden = "; labels of -1 are hidden: take another split in `arguments: origin:`" if labels[row] == -1 else ""
            raise UserError(f"{table.path}, row {row}: label {labels[row]}, expected {expected} by `labels:`{hidden}")
        found.append(labels)
    return np.concatenate(found)
