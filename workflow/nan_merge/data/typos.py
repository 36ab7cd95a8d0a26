"""Put typos into texts, the same into the same text."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from nan_merge.data.dataset import generator_for

WORD = re.compile(r"[A-Za-z]{4,}")  # first and last letter stay, so shorter words have no two letters to swap
KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")  # each row half a key further right than the one above


def with_typos(rows: Sequence[Any], strength: float) -> list[Any]:
    """Return texts, or pairs of texts, in which each word has a typo with probability `strength`."""
    return [
        _with_typos(row, strength) if isinstance(row, str) else tuple(_with_typos(text, strength) for text in row) for row in rows
    ]


def _with_typos(text: str, strength: float) -> str:
    """Swap two inner letters of a word, leave one out, or replace one by a neighbour on the keyboard.

    Belinkov and Bisk (arXiv 1711.02173); inner letters only as in Pruthi et al. (arXiv 1905.11268). A larger strength keeps the
    typos of a smaller one. ASSUME: the three kinds are equally frequent.
    """
    draw = generator_for(text.encode(errors="surrogatepass"))

    def changed(match: re.Match[str]) -> str:
        chance, kind, place, key = draw.random(4)
        return KINDS[int(kind * len(KINDS))](match[0], place, key) if chance < strength else match[0]

    return WORD.sub(changed, text)


def _swapped(word: str, place: float, key: float) -> str:
    at = 1 + int(place * (len(word) - 3))
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]


def _left_out(word: str, place: float, key: float) -> str:
    at = 1 + int(place * (len(word) - 2))
    return word[:at] + word[at + 1 :]


def _mistyped(word: str, place: float, key: float) -> str:
    at = 1 + int(place * (len(word) - 2))
    near = NEIGHBOURS[word[at].lower()]
    typed = near[int(key * len(near))]
    return word[:at] + (typed.upper() if word[at].isupper() else typed) + word[at + 1 :]


def _neighbours() -> dict[str, str]:
    places = {key: (row, at + row / 2) for row, keys in enumerate(KEYBOARD) for at, key in enumerate(keys)}
    return {
        key: "".join(other for other, (r, a) in places.items() if 0 < (r - row) ** 2 + (a - at) ** 2 < 1.5)
        for key, (row, at) in places.items()
    }


NEIGHBOURS = _neighbours()  # of each key
KINDS: tuple[Callable[[str, float, float], str], ...] = (_swapped, _left_out, _mistyped)  # `place` and `key` are below 1
