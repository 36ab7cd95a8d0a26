"""MathVista (Lu et al. 2024): options by letter or text, numbers with their precision, lists; by rules instead of a judge."""

from __future__ import annotations

import re
from typing import Any

from nan_merge.models.tasks import pictures
from nan_merge.models.tasks.letters import chosen, clean, in_box, options
from nan_merge.models.tasks.pictures import Document

COLUMNS = ("query", "choices", "precision", "answer", "question_type", "answer_type")
NUMBER = re.compile(r"(?<![A-Za-z0-9_.])-?\d*\.?\d+(?:\s*/\s*\d*\.?\d+)?")
LIST = re.compile(r"\[([-\d.,\s]*\d[-\d.,\s]*)\]")
THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
REASON = re.compile(r"(?<=[\w,.] )(?:because|since)\b[^.\n]*")
MARK = re.compile(r"answer|value|result|答案|答", re.IGNORECASE)
REFUSAL = re.compile(r"\b(?:cannot|can't|unable to|not possible|insufficient|not enough|no information|not provided)\b")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
WORDS = {word: str(number) for number, word in enumerate(DIGITS)}


def documents(data: Any) -> Any:
    """Return the documents; questions on equal pictures are one group."""
    return pictures.documents(data, "decoded_image", "pid", COLUMNS)


def prompt(document: Document) -> str:
    """Return the query of the data set, a hint at the form of the answer before question and options."""
    return pictures.asked(document["query"])


def extract(text: str, document: Document) -> str:
    """Return the letter of an option, a number or a list as the answer in a text; empty for none.

    DIFFERS: the authors let a language model extract, and take the most similar option where that finds none; here such an output
    has no answer, which counts as wrong.
    """
    if document["question_type"] == "multi_choice":
        return chosen(text, options(document["choices"]))
    if document["answer_type"] == "list":
        found = LIST.findall(clean(text))
        return f"[{', '.join(re.findall(r'[-.0-9]+', found[-1]))}]" if found else ""
    return _number(text)


def _number(text: str) -> str:
    """Return the number in the box, behind the last mark, or at the end of a text; numbers to twelve may be words.

    Behind a mark it is the result of the equation in the sentence, or else the first number; a refusal has none.
    """
    text = REASON.sub("", THOUSANDS.sub("", clean(text)).lower())
    if "boxed{" in text:
        text = in_box(text)
    *_, behind = MARK.split(text)
    sentence = re.split(r"\.\s|\n|;", behind.strip())[0]
    if behind != text and (found := _numbers(sentence)) and not REFUSAL.search(sentence):
        return found[-1] if "=" in sentence else found[0]
    if REFUSAL.search(text) or not (found := _numbers(text)):
        return ""
    return found[-1]


def _numbers(text: str) -> list[str]:
    """Return the numbers and fractions in a text; those of words only if there is none in digits."""
    found = [each.replace(" ", "") for each in NUMBER.findall(text)]
    return found or [WORDS[word] for word in re.findall("[a-z]+", text) if word in WORDS]


def score(document: Document, answer: str) -> bool:
    """Return whether an extracted answer is right: the same option, or the same numbers at the stated precision.

    DIFFERS: the authors cut the decimals of an answer to a question for an integer; here 5.7 is not 5.
    """
    if document["question_type"] == "multi_choice":
        return options(document["choices"]).get(answer) == document["answer"]
    digits = int(document["precision"] or 0)
    given, right = ([_value(part) for part in re.findall(r"[-\d./]+", text)] for text in (answer, document["answer"]))
    if document["answer_type"] == "integer":
        return bool(given) and given == right
    return bool(given) and [round(one, digits) for one in given] == [round(one, digits) for one in right]


def _value(text: str) -> float:
    """Return the value of a number or a fraction; NaN, which equals nothing, for another text."""
    try:
        over, _, under = text.rstrip("./").partition("/")
        return float(over) / float(under or 1)
    except (ValueError, ZeroDivisionError):
        return float("nan")


extracted, process_results = pictures.rules(extract), pictures.exact(score)
