"""Prepare labelled texts of packages: read, split, remove duplicates, tokenise to rows of fixed length.

Readers return raw texts and class keys; `prepare` contains all steps that they share.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nan_merge.core.errors import UserError
from nan_merge.core.text import read_mapping
from nan_merge.data.dataset import PADDING, SEED, Splits, common_record
from nan_merge.data.typos import with_typos

Texts = tuple[list[str], list[str]]  # texts, class keys
SHORTEST = 3  # characters; shorter texts are dropped


def tab(
    sources: list[Path], *, label: str, text: str, file: str = "", train: str = "", test: str = "",
    where: Mapping[str, str] | None = None, held_out: float = 0.2,
) -> dict[str, Texts]:  # fmt: skip
    """Read Orange `.tab` tables: three header rows, then one text per row.

    Either `train` and `test` name the two files of a published split, or `file` names one table and the share
    `held_out` of its rows is drawn for testing. Only rows with the values of `where` in its columns are kept.
    """
    if file:
        rows = _table(_find(sources, file), label, text, where or {})
        return _hold_out(rows, [str(i) for i in range(len(rows))], held_out)
    return {split: _texts(_table(_find(sources, name), label, text, where or {}))
            for split, name in (("train", train), ("test", test))}  # fmt: skip


def comma(sources: list[Path], *, label: str, text: str, file: str, held_out: float = 0.2) -> dict[str, Texts]:
    """Read a comma-separated table, one header row, then one text per row; hold out a share for testing."""
    rows = _table(_find(sources, file), label, text, {}, delimiter=",", header_rows=1)
    return _hold_out(rows, [str(i) for i in range(len(rows))], held_out)


def rated(sources: list[Path], *, file: str, threshold: float = 0.3, held_out: float = 0.2) -> dict[str, Texts]:
    """Read rated texts, `id TAB mean rating in -4..4 TAB text`, as `negative` and `positive`.

    Ratings with a magnitude below `threshold` are dropped as undecided. Ids are `document_sentence`; whole documents are
    held out, so no document is in both splits (Hutto & Gilbert 2014 publish no split).
    """
    rows, documents = [], []
    path = _find(sources, file)
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        cells = line.split("\t")
        try:
            rating = float(cells[1])
            text = cells[2].strip()
        except (IndexError, ValueError):
            raise UserError(f"{path}, line {number}: expected `id TAB rating TAB text`, found {line[:60]!r}") from None
        if abs(rating) >= threshold:
            rows.append((text, "positive" if rating > 0 else "negative"))
            documents.append(cells[0].split("_")[0])
    return _hold_out(rows, documents, held_out)


def prepare(task: Mapping[str, Any], sources: Mapping[str, Path], form: Mapping[str, Any]) -> tuple[dict[str, Any], Splits]:
    """Turn one entry of config/tasks.yaml into `(record, splits)` for `write_dataset`.

    `form` is the suite's `input:`, {"tokenizer": asset id, "length": tokens}. Validation is taken from train. Rows of
    tokens are unique, and no row of test occurs in train or validation. With `corrupt` in the form the same examples are test,
    and their texts have typos.
    """
    name = task["reader"].split(".")[-1]
    if name not in READERS:
        known = ", ".join(f"texts.{reader}" for reader in READERS)
        raise UserError(f"config/tasks.yaml: unknown reader {task['reader']!r}; known: {known}")
    raw = READERS[name]([Path(sources[asset]) for asset in task["assets"]], **task.get("arguments", {}))
    keys = list(task["classes"])
    vocabulary = Path(sources[form["tokenizer"]]) / "tokenizer.json"
    seen: set[bytes] = set()
    rows: dict[str, tuple[np.ndarray, ...]] = {}
    for split in ("test", "train"):  # test first: its rows are removed from train
        texts, labels = _of_classes(raw[split], keys)
        tokens = tokenise(texts, vocabulary, form["length"])
        kept = _unique(tokens, seen)
        rows[split] = tokens[kept], labels[kept], np.array(texts, dtype=object)[kept]
    parts, available = _cut_splits(rows, task["splits"], task.get("label", name))
    splits: Splits = {split: (tokens, labels) for split, (tokens, labels, _) in parts.items()}
    if "corrupt" in form:
        _, labels, originals = parts["test"]
        splits["test"] = tokenise(with_typos(list(originals), form["corrupt"]["strength"]), vocabulary, form["length"]), labels
    return common_record(task, keys, available), splits


def tokenise(texts: list[str], vocabulary: Path, length: int) -> np.ndarray:
    """Return the token ids of `texts`, truncated and right-padded with 0: (N, length) uint16."""
    # ASSUME: a word is at least one token, so 2 * length words fill any row; tokenising whole posts takes seconds.
    return encode([" ".join(text.split(None, 2 * length)[: 2 * length]) for text in texts], vocabulary, length, 0)


def encode(rows: Sequence[str | tuple[str, str]], vocabulary: Path, length: int, padding: int = PADDING) -> np.ndarray:
    """Return the token ids of texts or pairs of texts, truncated and right-padded: (N, length) uint16.

    How a pair is joined, and which special tokens are added, the tokenizer's own file says. Of a pair that is too long, tokens
    of the longer text are cut first.
    """
    tokenizer = _tokenizer(vocabulary)
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length, pad_id=padding)
    ids = [line.ids for line in tokenizer.encode_batch(list(rows))]
    return np.array(ids, dtype=np.uint16).reshape(len(rows), length)


def decode(rows: np.ndarray, vocabulary: Path) -> list[str]:
    """Return the texts of rows of token ids (N, length), as far as these go, without padding and special tokens."""
    return _tokenizer(vocabulary).decode_batch([row[row != PADDING].tolist() for row in rows])


def _tokenizer(vocabulary: Path) -> Any:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from tokenizers import Tokenizer

    read_mapping(vocabulary)  # its limits on size and depth, and its errors
    try:
        tokenizer = Tokenizer.from_file(str(vocabulary))
    except Exception as error:  # the library raises no other kind
        raise UserError(f"{vocabulary}: no tokenizer ({str(error)[:200]}); fetch it again") from None
    if tokenizer.get_vocab_size() > PADDING:
        raise UserError(f"{vocabulary}: {tokenizer.get_vocab_size()} tokens; expected at most {PADDING} (ids of 16 bits)")
    return tokenizer


def _find(sources: list[Path], file: str) -> Path:
    for folder in sources:
        if file and (folder / file).is_file():
            return folder / file
    places = ", ".join(str(folder) for folder in sources)
    raise UserError(f"no file {file!r} in {places}; check the task's `arguments:` and the asset's `files:`")


def _table(
    path: Path, label: str, text: str, where: Mapping[str, str], delimiter: str = "\t", header_rows: int = 3
) -> list[tuple[str, str]]:
    csv.field_size_limit(1 << 30)
    with open(path, encoding="utf-8", errors="replace", newline="") as lines:
        table = csv.reader(lines, delimiter=delimiter)
        header = next(table, [])
        missing = [column for column in (label, text, *where) if column not in header]
        if missing:
            raise UserError(f"{path}: no column {missing[0]!r}, found {', '.join(header)}; correct `arguments:` of the task")
        at = {column: header.index(column) for column in (label, text, *where)}
        body = [row for row in list(table)[header_rows - 1 :] if len(row) > max(at.values())]
    return [(row[at[text]], row[at[label]]) for row in body if all(row[at[c]] == v for c, v in where.items())]


def _texts(rows: list[tuple[str, str]]) -> Texts:
    return [text for text, _ in rows], [key for _, key in rows]


def _hold_out(rows: list[tuple[str, str]], documents: list[str], share: float) -> dict[str, Texts]:
    """Split rows by documents; the given share of the documents, drawn with SEED, is the test split."""
    names = sorted(set(documents))
    drawn = np.random.default_rng(SEED).permutation(len(names))[: round(share * len(names))]
    chosen = {names[i] for i in drawn}
    train = [row for row, document in zip(rows, documents, strict=True) if document not in chosen]
    test = [row for row, document in zip(rows, documents, strict=True) if document in chosen]
    return {"train": _texts(train), "test": _texts(test)}


def _of_classes(rows: Texts, keys: list[str]) -> tuple[list[str], np.ndarray]:
    index = {key: i for i, key in enumerate(keys)}
    kept = [(text, index[key]) for text, key in zip(*rows, strict=True) if key in index and len(text.strip()) >= SHORTEST]
    return [text for text, _ in kept], np.array([label for _, label in kept], dtype=np.int64)


def _unique(tokens: np.ndarray, seen: set[bytes]) -> list[int]:
    """Return the numbers of the rows that are not in `seen`, and add these rows to it."""
    kept = []
    for i, row in enumerate(tokens):
        if (key := row.tobytes()) not in seen:
            seen.add(key)
            kept.append(i)
    return kept


def _cut_splits(
    rows: Mapping[str, tuple[np.ndarray, ...]], sizes: Mapping[str, int], label: str
) -> tuple[dict[str, tuple[np.ndarray, ...]], int]:
    """Shuffle, take validation from train and limit each split to its size; return (splits, rows available for training).

    A split is tokens, labels and texts. Train keeps its order, so a smaller size gives a subset of a larger one.
    """
    drawn = {}
    for i, (split, arrays) in enumerate(sorted(rows.items())):
        order = np.random.default_rng([SEED, i]).permutation(len(arrays[0]))
        drawn[split] = [array[order] for array in arrays]
    available = len(drawn["train"][1]) - sizes["validation"]
    if available < 1:
        total = available + sizes["validation"]
        raise UserError(
            f"task {label!r}: expected more than {sizes['validation']} texts for validation and train, found {total}; "
            "lower `splits: validation` in config/tasks.yaml"
        )
    cut = {"validation": ("train", 0, sizes["validation"]), "test": ("test", 0, sizes["test"]),
           "train": ("train", sizes["validation"], sizes["validation"] + sizes["train"])}  # fmt: skip
    return {name: tuple(part[a:b] for part in drawn[split]) for name, (split, a, b) in cut.items()}, available


READERS: dict[str, Callable[..., dict[str, Texts]]] = {reader.__name__: reader for reader in (tab, comma, rated)}
