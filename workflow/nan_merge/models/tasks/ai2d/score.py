"""AI2D (Kembhavi et al. 2016): the prompt of lmms-eval, and the letter that an output chooses."""

from __future__ import annotations

from typing import Any

from nan_merge.models.tasks import pictures
from nan_merge.models.tasks.letters import chosen, options
from nan_merge.models.tasks.pictures import Document

REQUEST = "Answer with the option's letter from the given choices directly."


def documents(data: Any) -> Any:
    """Return the documents, named by their place, since they have no names."""
    return pictures.documents(data.add_column("number", range(len(data))), "image", "number", ("question", "options", "answer"))


def prompt(document: Document) -> str:
    """Return the question with its options."""
    lines = [f"{letter}. {text}" for letter, text in options(document["options"]).items()]
    return pictures.asked("\n".join([document["question"], *lines, REQUEST]))


def target(document: Document) -> str:
    """Return the right letter; the data have its place."""
    return [*options(document["options"])][int(document["answer"])]


def extract(text: str, document: Document) -> str:
    """Return the letter that a text chooses, empty for none. DIFFERS: lmms-eval compares the output as a whole."""
    return chosen(text, options(document["options"]))


def score(document: Document, answer: str) -> bool:
    """Return whether an extracted answer is right."""
    return answer == target(document)


extracted, process_results = pictures.rules(extract), pictures.exact(score)
