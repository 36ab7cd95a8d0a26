"""Write words as a shell and a parser of options read them back."""

from __future__ import annotations

import os
import shlex

from nan_merge.core.escape import visible


def option(key: str, value: str) -> list[str]:
    """Return an option and its value as words; a value that begins with a dash is joined to its option."""
    return [f"{key}={value}"] if value.startswith("-") else [key, value]


def quoted(word: str) -> str:
    r"""Quote a word for the shell; one that a terminal or a page cannot show, as $'\x1b', by its bytes (bash, zsh)."""
    if visible(word) == word:
        return shlex.quote(word)
    shown = {ord("\\"): "\\\\", ord("'"): "\\'"}
    plain = (chr(byte).translate(shown) if 32 <= byte < 127 else f"\\x{byte:02x}" for byte in os.fsencode(word))
    return f"$'{''.join(plain)}'"


def line(words: list[str]) -> str:
    """Return words as one command line."""
    return " ".join(map(quoted, words))
