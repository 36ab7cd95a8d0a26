"""Read a data set of retrieval in the layout of BEIR (Thakur et al., arXiv 2104.08663), and check that its parts fit together.

A folder holds corpus.jsonl and queries.jsonl, with `_id` and `text` (documents perhaps with `title`), and the judgements
`qrels/<split>`, as .jsonl or .tsv with a header, with `query-id`, `corpus-id` and `score`, a whole number, 0 for not relevant.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nan_merge.core.errors import UserError
from nan_merge.core.names import first_of
from nan_merge.core.text import parse_json

JUDGED = ("query-id", "corpus-id", "score")
LONGEST = 1_000  # characters of an id
HIGHEST = 1_000_000  # of a score, and the lowest below 0


@dataclass(frozen=True)
class Collection:
    """Texts of documents and queries by id, and the score of every judged document by query and document.

    The queries are those of one split, in the order of the file. Every one has a relevant document, one with a score above 0.
    """

    documents: Mapping[str, str]
    queries: Mapping[str, str]
    judged: Mapping[str, Mapping[str, int]]


def read(folder: Path, split: str, skip_same_id: bool = False) -> Collection:
    """Return the collection of a folder, with the queries of a split; titles stand before their texts, as in BEIR.

    Raises UserError for files and columns that are missing, lines of another form, an id that stands twice, an empty corpus,
    judgements of ids that no file has, and a query without a relevant document; with `skip_same_id` one with its id is none.
    """
    documents = _texts(folder / "corpus.jsonl")
    texts = _texts(folder / "queries.jsonl")
    judged: dict[str, dict[str, int]] = {}
    for where, row in _rows(_judgements(folder, split), JUDGED):
        query, document = str(row["query-id"]), str(row["corpus-id"])
        if document in judged.setdefault(query, {}):
            raise UserError(f"{where}: document {document!r} is judged twice for query {query!r}; expected once; remove a line")
        judged[query][document] = _score(row["score"], where)
    place = f"{folder}, qrels of {split}"
    unknown = {
        "queries": [query for query in judged if query not in texts],
        "documents": sorted({document for of in judged.values() for document in of} - documents.keys()),
    }
    for kind, ids in unknown.items():
        if ids:
            file = "queries.jsonl" if kind == "queries" else "corpus.jsonl"
            raise UserError(f"{place}: {len(ids)} {kind} are not in {file}: {first_of(ids)}; expected all; fetch the data again")
    if without := [q for q, of in judged.items() if all(score < 1 or (skip_same_id and doc == q) for doc, score in of.items())]:
        skipped = ", and with `skip_same_id` another id than the query" if skip_same_id else ""
        raise UserError(
            f"{place}: {len(without)} of {len(judged)} queries have no relevant document (a score above 0{skipped}):"
            f" {first_of(without)}; their nDCG is not defined. Remove their lines, or fetch the data again"
        )
    if not judged:
        raise UserError(f"{place}: no judgement; expected a line for each relevant document; fetch the data again")
    return Collection(documents, {query: text for query, text in texts.items() if query in judged}, judged)


def _texts(file: Path) -> dict[str, str]:
    """Return the texts of a file by id."""
    found: dict[str, str] = {}
    for where, row in _rows(file, ("_id", "text")):
        if (name := str(row["_id"])) in found:
            raise UserError(f"{where}: the id {name!r} stands twice; expected one line an id; fetch the data again")
        found[name] = f"{row.get('title') or ''} {row['text'] or ''}".strip()
    if not found:
        raise UserError(f"{file}: is empty; expected one text a line; fetch the data again")
    return found


def _judgements(folder: Path, split: str) -> Path:
    """Return the file of the judgements of a split."""
    files = [folder / f"qrels/{split}{suffix}" for suffix in (".jsonl", ".tsv")]
    there = sorted(file.name for file in folder.glob("qrels/*"))
    if not any(file.is_file() for file in files):
        found = first_of(there) if there else "no file in qrels"
        raise UserError(
            f"{folder}: no judgements of split {split!r}: expected qrels/{split}.jsonl or qrels/{split}.tsv, found {found};"
            " correct `harness: retrieval: split:` of the task, or `members:` of the asset"
        )
    return next(file for file in files if file.is_file())


def _rows(file: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every line of a file as a mapping with the `columns`, and where it stands."""
    if not file.is_file():
        raise UserError(
            f"{file}: there is no such file; expected a data set in the layout of BEIR: corpus.jsonl, queries.jsonl and qrels."
            " Correct `members:` of the asset, and lock it again"
        )
    lines = _lines(file)
    if file.suffix == ".tsv":
        where, first = next(lines, (f"{file}, line 1", ""))
        header = first.split("\t")
        if not {*columns} <= {*header}:
            expected = f"expected the header {', '.join(columns)}, with tabs between the names"
            raise UserError(f"{where}: {first[:80]!r}; {expected}; put it there, or fetch the data again")
        found: Iterator[tuple[str, Any]] = ((where, dict(zip(header, line.split("\t"), strict=False))) for where, line in lines)
    else:
        found = ((where, parse_json(line, where)) for where, line in lines)
    for where, row in found:
        if missing := [column for column in columns if not isinstance(row, dict) or row.get(column) is None]:
            raise UserError(f"{where}: no {missing[0]!r}; expected {', '.join(columns)}; fetch the data again")
        for column in (*columns, "title"):
            _check(row.get(column), column, where)
        yield where, row


def _lines(file: Path) -> Iterator[tuple[str, str]]:
    """Yield the lines of a file in UTF-8, with or without a byte order mark, that are not blank, and where each stands."""
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, 1):
            where = f"{file}, line {number}"
            try:
                text = line.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                raise UserError(f"{where}: not in UTF-8 ({error}); save it in this encoding, or fetch it again") from None
            if text.strip():
                yield where, text.rstrip("\r\n")


def _check(value: Any, column: str, where: str) -> None:
    """Raise UserError for a value that is no text or number, text that is no Unicode, and an id of many characters."""
    if isinstance(value, bool | list | dict):
        raise UserError(f"{where}: {column} {value!r:.80}; expected a text or a number; fetch the data again")
    if isinstance(value, str) and (half := re.search(r"[\ud800-\udfff]", value)):
        raise UserError(f"{where}: {column} holds {half[0]!r}, half of a surrogate pair; expected both; fetch the data again")
    if column.endswith("id") and (length := len(str(value))) > LONGEST:
        raise UserError(f"{where}: {column} has {length:,} characters; expected at most {LONGEST:,}; fetch the data again")


def _score(value: Any, where: str) -> int:
    try:
        if (number := float(value)).is_integer() and abs(number) <= HIGHEST:
            return int(number)
    except (ValueError, OverflowError):
        pass
    expected = f"expected a whole number, of at most {HIGHEST:,} and not below -{HIGHEST:,}"
    raise UserError(f"{where}: score {value!r:.80}; {expected}; fetch the data again")
