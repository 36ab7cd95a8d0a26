"""Read a data set of retrieval in the layout of BEIR (Thakur et al., arXiv 2104.08663), and check that its parts fit together.

A folder holds corpus.jsonl and queries.jsonl, with `_id` and `text` (documents perhaps with `title`), and the judgements
`qrels/<split>`, as .jsonl or .tsv with a header, with `query-id`, `corpus-id` and `score`, a whole number, 0 for not relevant.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nan_merge.core.errors import UserError
from nan_merge.core.names import first_of
from nan_merge.core.text import parse_json

JUDGED = ("query-id", "corpus-id", "score")


@dataclass(frozen=True)
class Collection:
    """Texts of documents and queries by id, and the score of every judged document by query and document.

    The queries are those of one split, in the order of the file. Every one has a relevant document, one with a score above 0.
    """

    documents: Mapping[str, str]
    queries: Mapping[str, str]
    judged: Mapping[str, Mapping[str, int]]


def read(folder: Path, split: str) -> Collection:
    """Return the collection of a folder, with the queries of a split; titles stand before their texts, as in BEIR.

    Raises UserError for files and columns that are missing, an id that stands twice, an empty corpus, judgements of ids that no
    file has, and a query without a relevant document.
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
    if without := [query for query, of in judged.items() if max(of.values()) < 1]:
        raise UserError(
            f"{place}: {len(without)} of {len(judged)} queries have no relevant document (a score above 0): {first_of(without)};"
            " their nDCG is not defined. Remove their lines, or fetch the data again"
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
    with open(file, encoding="utf-8", newline="") as lines:
        if file.suffix == ".tsv":
            rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
            found: Iterator[tuple[int, Any]] = enumerate(rows, 2)
        else:
            found = ((number, parse_json(line, f"{file}, line {number}")) for number, line in enumerate(lines, 1) if line.strip())
        for number, row in found:
            where = f"{file}, line {number}"
            if missing := [column for column in columns if not isinstance(row, dict) or row.get(column) is None]:
                raise UserError(f"{where}: no {missing[0]!r}; expected {', '.join(columns)}; fetch the data again")
            yield where, row


def _score(value: Any, where: str) -> int:
    try:
        if (number := float(value)).is_integer():
            return int(number)
    except (TypeError, ValueError):
        pass
    raise UserError(f"{where}: score {value!r}; expected a whole number; fetch the data again")
