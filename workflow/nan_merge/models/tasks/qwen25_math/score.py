"""Extract and compare answers as the evaluation toolkit of Qwen2.5-Math does for GSM8K; lm_eval loads this file by its path."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

NUMBER = re.compile(r"-?\d*\.?\d+")
MARKS = ("he answer is", "final answer is", "答案是")  # in this order; "The" and "the"
NO_ANSWER = "[invalid]"  # what the filters of lm_eval return
TOLERANCE = 1e-4  # relative
# DIFFERS: the toolkit has a list of units, and compares what is no number by symbolic algebra; here any words after a number are
# its unit, and what is no number is compared as text, since the answers of GSM8K are numbers.
UNIT = re.compile(r"(-?\d*\.?\d+)\s*[A-Za-z /]*")


def extracted(responses: Iterable[Sequence[str]], _documents: Any) -> list[list[str]]:
    """Return the answers in generated texts, a list a document: the filter `toolkit`."""
    return [[answer(text) or NO_ANSWER for text in texts] for texts in responses]


def process_results(document: Mapping[str, str], results: Sequence[str]) -> dict[str, int]:
    """Return the metrics of a document for its extracted answer."""
    return {"exact_match": int(equal(results[0], document["answer"].rpartition("####")[2]))}


def answer(text: str) -> str:
    """Return the answer in a text: in the last box, else after the last mark, else the last number; empty for none."""
    mark = next((mark for mark in MARKS if mark in text), None)
    if "final answer is $" in text and "$. I hope" in text:
        found = text.partition("final answer is $")[2].partition("$. I hope")[0]
    elif "boxed" in text:
        found = _in_braces(text.rpartition("boxed")[2])
    elif mark:
        found = text.rpartition(mark)[2]
    else:
        numbers = NUMBER.findall(text.replace(",", ""))
        found = numbers[-1] if numbers else ""
    return re.sub(r"\n\s*", "", found).strip().lstrip(":").rstrip(".").rstrip("/").strip()


def _in_braces(rest: str) -> str:
    """Return what the braces at the start of a text hold, to its end if they are not closed; without braces all before a `$`."""
    if not rest.startswith("{"):
        return rest.partition("$")[0]
    depth = 0
    for place, letter in enumerate(rest):
        depth += (letter == "{") - (letter == "}")
        if depth == 0:
            return rest[1:place]
    return rest[1:]


def equal(given: str, right: str) -> bool:
    """Return whether two answers are the same number, up to a factor of 100 for per cent, or the same text."""
    one, other = number(given), number(right)
    if one is None or other is None:
        return given.strip() == right.strip()
    return any(math.isclose(one, wanted, rel_tol=TOLERANCE) for wanted in (other / 100, other, other * 100))


def number(text: str) -> float | None:
    """Return the number that a text is, without signs of currency, per cent, commas and units; None for another text."""
    plain = re.sub(r"\\text\{(.*?)\}|\\[!,; ]|\\?[$%]|,", r"\1", text).strip()
    found = UNIT.fullmatch(plain)
    return float(found[1]) if found else None
