"""Documents with a picture: columns that are checked, pictures that are decoded one by one and named if they cannot be."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from xxhash import xxh3_64_hexdigest

from nan_merge.data.decoding import decode
from nan_merge.models.tasks.letters import NO_ANSWER

PLACE = "<image>"  # where lm_eval puts the picture
Document = Mapping[str, Any]


def documents(data: Any, picture: str, name: str, columns: Sequence[str]) -> Any:
    """Return the documents of a data set with their pictures as bytes, and their names and groups.

    `picture` is the column of pictures and `name` that of the names of documents. Documents with equal pictures are one `_group`,
    since their answers are no independent sample. Raises ValueError for a column that is missing.
    """
    if missing := [column for column in (name, picture, *columns) if column not in data.column_names]:
        raise ValueError(f"column '{missing[0]}' is missing; found {', '.join(data.column_names)}")
    kind = data.features[picture]
    data = data.cast_column(picture, dataclasses.replace(kind, decode=False)) if hasattr(kind, "decode") else data
    content = [(held or {}).get("bytes") or b"" for held in data[picture]]
    names = [str(each) for each in data[name]]
    data = data.add_column("_name", names).add_column("_group", [xxh3_64_hexdigest(each) for each in content])
    return data if picture == "picture" else data.rename_column(picture, "picture")


def picture(document: Document) -> list[Any]:
    """Return the picture of a document; ValueError with its name if it has none, or one that cannot be decoded."""
    content = (document["picture"] or {}).get("bytes")
    if not content:
        raise ValueError(f"document {document['_name']} has no picture")
    try:
        return [decode(content)]
    except Exception as error:  # libraries of picture formats raise errors of many kinds
        raise ValueError(f"the picture of document {document['_name']} cannot be decoded: {error}") from None


def asked(text: str) -> str:
    """Return a prompt: the picture, then the text."""
    return PLACE + text.replace(PLACE, "").strip()


def rules(extract: Callable[[str, Document], str]) -> Callable[[Iterable[Sequence[str]], Sequence[Document]], list[list[str]]]:
    """Return the filter of lm_eval that takes the answers from generated texts, a list a document."""

    def extracted(responses: Iterable[Sequence[str]], documents: Sequence[Document]) -> list[list[str]]:
        return [[extract(text, each) or NO_ANSWER for text in texts] for texts, each in zip(responses, documents, strict=True)]

    return extracted


def exact(score: Callable[[Document, str], bool]) -> Callable[[Document, Sequence[str]], dict[str, int]]:
    """Return what lm_eval calls for the metrics of a document and its extracted answer."""
    return lambda document, results: {"exact_match": int(score(document, results[0]))}
