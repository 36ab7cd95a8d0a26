"""GeoQA (Chen et al. 2021) in the English questions of G-LLaVA, whose pictures lie in an archive beside them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from nan_merge.core.text import parse_json
from nan_merge.models.tasks import pictures
from nan_merge.models.tasks.letters import chosen, options_in
from nan_merge.models.tasks.pictures import Document

OPTION = re.compile(r"^([A-H]):(.*)$", re.MULTILINE)
LARGEST = 1 << 24  # bytes of a picture


def load(folders: Iterable[str], **_metadata: Any) -> dict[str, Any]:
    """Return the questions with answers and pictures from test_questions.jsonl, test_answers.jsonl and images.zip.

    They lie in one folder, or in several. Raises FileNotFoundError for a file that none has, ValueError for an odd one.
    """
    from datasets import Dataset

    places = [Path(folder) for folder in folders]
    questions, right = _lines(places, "test_questions.jsonl"), _lines(places, "test_answers.jsonl")
    answers = {each["question_id"]: each["text"] for each in right}
    if lacking := [each["question_id"] for each in questions if each["question_id"] not in answers]:
        raise ValueError(f"test_answers.jsonl has no answer to question {lacking[0]}")
    content = _pictures(_find(places, "images.zip"))
    rows = [{**q, "answer": answers[q["question_id"]], "picture": {"bytes": content(q["image"])}} for q in questions]
    return {"test": Dataset.from_list(rows)}


def _pictures(file: Path) -> Callable[[str], bytes]:
    """Return what reads a picture by its name, `test/0.png`, in any folder of the archive; no bytes if it is not there."""
    try:
        archive = ZipFile(file)
    except BadZipFile as error:
        raise ValueError(f"images.zip is damaged: {error}") from None
    members = {"/".join(Path(item.filename).parts[-2:]): item for item in archive.infolist() if item.file_size <= LARGEST}
    return lambda name: archive.read(members[name]) if name in members else b""


def _lines(folders: Iterable[Path], name: str) -> list[dict[str, Any]]:
    file = _find(folders, name)
    return [parse_json(line, file) for line in file.read_text("utf-8").splitlines() if line.strip()]


def _find(folders: Iterable[Path], name: str) -> Path:
    found = next((path for folder in folders if (path := folder / name).is_file()), None)
    if found is None:
        raise FileNotFoundError(f"there is no {name}")
    return found


def documents(data: Any) -> Any:
    """Return the documents; the picture of a question is its group."""
    return pictures.documents(data, "picture", "question_id", ("text", "answer"))


def prompt(document: Document) -> str:
    """Return the question, which has request and options in it."""
    return pictures.asked(document["text"])


def extract(text: str, document: Document) -> str:
    """Return the letter that a text chooses, empty for none.

    DIFFERS: G-LLaVA takes "Answer:X" without a space and four sentences; more are taken here, so that the way in which a model
    states its answer counts less.
    """
    return chosen(text, options_in(document["text"].partition("Choices:")[2], OPTION))


def score(document: Document, answer: str) -> bool:
    """Return whether an extracted answer is right."""
    return answer == document["answer"]


extracted, process_results = pictures.rules(extract), pictures.exact(score)
