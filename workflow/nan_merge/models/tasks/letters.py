"""Find the option that a generated text chooses, by rules and without a judge; shared by tasks of multiple choice."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence

NO_ANSWER = "[invalid]"  # what the filters of lm_eval return
LETTER = r"(?<![A-Za-z0-9'])([A-Ha-h])(?![A-Za-z0-9'])"  # no part of a word; \b would take 选B for one word
MARK = re.compile("answer|option|choice|答案|选项|故选|应选|选择|选", re.IGNORECASE)
MARKS = 20  # the last ones, that are looked at: a model that repeats itself writes hundreds
FILLER = (
    r"(?:\s|is|are|was|be|would|should|must|to|this|the|question|problem|correct|right|best|final|option|choice|letter"
    r"|[:=(\[{为是应该])*"
)
AFTER_MARK = re.compile(rf"{FILLER}{LETTER}(?!\s*[=+^×])", re.IGNORECASE)
AND_ANOTHER = re.compile(  # possessive (*+), so that many signs are read once
    r"(?:(?=\W*?[、/,&])\W*+|\W*+(?:and|or|和|或|还是)\W*+)(?:option\s+)?\(?([A-Ha-h])(?![A-Za-z])", re.IGNORECASE
)
ALONE = re.compile(rf"\W*{LETTER}\W*")
LISTED = re.compile(r"(?:^|\s)\(?([A-H])[).:、]")
AT_START = re.compile(r"\(?([A-H])[).:、](?![A-Z]\.)")
AT_END = re.compile(rf"(?:\({LETTER}\)|(?<![A-Za-z])is ([A-H]))\W*$")
SAID_CORRECT = re.compile(rf"{LETTER}\)?\s*(?:is|would be|seems)\s+(?:the\s+)?(?:correct|right|true|selected)", re.IGNORECASE)
LATEX = {
    r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}": r"\1/\2",
    r"\\(?:text|mathrm|textbf|mathbf)\{([^{}]*)\}": r"\1",
    r"(?<!\s)\s*\^?\{?\\circ\}?|(?<!\s)\s*\bdegrees?\b": "°",  # from the first of many spaces, so that they are read once
    r"\\(?:left|right|[,;!() ])": "",
}
NUMBER_WITH_UNIT = re.compile(r"(-?\d[\d.,/]*)\s*(?:°|%|[a-z]{1,6}(?:\^?[23])?)?")


def options(choices: Sequence[str]) -> dict[str, str]:
    """Return the texts of options by their letters, A first."""
    return {chr(ord("A") + number): str(text) for number, text in enumerate(choices)}


def options_in(text: str, pattern: re.Pattern[str]) -> dict[str, str]:
    """Return the texts of options by their letters where they stand in a text; A to H without texts if none are found."""
    return dict(pattern.findall(text)) or dict.fromkeys("ABCDEFGH", "")


def chosen(text: str, choices: Mapping[str, str]) -> str:
    """Return the letter of the option that a text chooses; empty where it chooses none, or two.

    `choices` are texts by letter. In this order: a letter alone, a box, the text of an option alone, what follows the last mark
    (`answer`, `option`, ..., of the last MARKS) that a letter or the text of an option follows, a letter or the text of an
    option at the start, a letter at the end, one that is said to be correct, the text of one option alone within.
    """
    text = clean(text)
    if alone := ALONE.fullmatch(text):
        return _known(alone[1], choices)
    if "boxed{" in text:
        return chosen(in_box(text), choices)
    if whole := _equal(text, choices):
        return whole
    for mark in reversed([*MARK.finditer(text)][-MARKS:]):
        if found := AFTER_MARK.match(text, mark.end()):
            return _after_mark(text, found, choices)
        line = re.sub(f"^{FILLER}", "", text[mark.end() :].partition("\n")[0], flags=re.IGNORECASE)
        if stated := _equal(line, choices) or _equal(line.rpartition("=")[2], choices) or _within(plain(line), choices):
            return stated
    if len({*LISTED.findall(text)}) == 1 and (found := AT_START.match(text)):
        return _known(found[1], choices)
    stops = {letter: (f"{plain(choice)},", f"{plain(choice)}.") for letter, choice in choices.items() if plain(choice)}
    if begun := [letter for letter, texts in stops.items() if plain(text).startswith(texts)]:
        return begun[0]
    if found := AT_END.search(text):
        return _known(found[1] or found[2], choices)
    if len(said := {each.upper() for each in SAID_CORRECT.findall(text)}) == 1:
        return _known(said.pop(), choices)
    return _within(plain(text), choices)


def _after_mark(text: str, found: re.Match[str], choices: Mapping[str, str]) -> str:
    """Return the letter behind a mark; a small `a` within a sentence is an article, and two letters are no answer."""
    rest, letter = text[found.end() :], _known(found[1], choices)
    if found[1] == "a" and not re.match(r"\s*[).\]}]|\s*$", rest):
        return ""
    other = AND_ANOTHER.match(rest)
    return letter if other is None or _known(other[1], choices) in ("", letter) else ""


def _within(text: str, choices: Mapping[str, str]) -> str:
    """Return the letter of the only option whose text stands in a text; one that is a part of another found one is none."""
    found = {
        letter: plain(choice)
        for letter, choice in choices.items()
        if plain(choice) and re.search(rf"(?<![\w.]){re.escape(plain(choice))}(?![\w°]|\.\d)", text)
    }
    whole = [letter for letter, choice in found.items() if not any(choice in each for each in found.values() if each != choice)]
    return whole[0] if len(whole) == 1 else ""


def _known(letter: str, choices: Mapping[str, str]) -> str:
    return letter.upper() if letter.upper() in choices else ""


def _equal(text: str, choices: Mapping[str, str]) -> str:
    """Return the letter of the only option with this text, with or without the unit of a number."""
    for form in (plain, _without_unit):
        same = [letter for letter, choice in choices.items() if form(text) and form(text) == form(choice)]
        if len(same) == 1:
            return same[0]
    return ""


def _without_unit(text: str) -> str:
    number = NUMBER_WITH_UNIT.fullmatch(plain(text))
    return number[1] if number else ""


def in_box(text: str) -> str:
    """Return what the last box holds, to the brace that closes it."""
    depth, rest = 1, text.rpartition("boxed{")[2]
    for place, sign in enumerate(rest):
        depth += (sign == "{") - (sign == "}")
        if depth == 0:
            return rest[:place]
    return rest


def clean(text: str) -> str:
    """Return a text with plain letters and signs, LaTeX written out, without emphasis and the brackets that prompts ask for."""
    for odd, usual in (("−", "-"), ("²", "^2"), ("³", "^3"), ("º", "°")):
        text = text.replace(odd, usual)
    text = unicodedata.normalize("NFKC", text).replace("⁄", "/")
    text = re.sub(r"</?([^\W\d][\w ]*)>", r" \1 ", re.sub(r"<<|>>|[*`$\"“”]", " ", text)).strip()
    for pattern, plainly in LATEX.items():
        text = re.sub(pattern, plainly, text)
    return text


def plain(text: str) -> str:
    """Return a clean text as it is compared: small letters, single spaces, no stop at its end."""
    return re.sub(r"\s+", " ", clean(text)).strip(" .;,").lower()
