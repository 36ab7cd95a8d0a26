"""Escape text that others wrote, once, at the place where it is put out: terminal, figure, Markdown, YAML."""

from __future__ import annotations

import functools
import html
import re
from typing import Any

CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")  # all but \n
BREAKS = re.compile(r"\r\n?|[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")  # line breaks besides \n


def visible(text: str) -> str:
    r"""Return a text whose control, direction and undecodable characters are escapes such as `\x1b`; `\n` alone stays.

    For the terminal, for figures and for every other output that gives such characters a meaning.
    """
    return CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), BREAKS.sub("\n", text))


def one_line(text: str) -> str:
    r"""Return `visible` text with `\n` escaped too."""
    return visible(text).replace("\n", "\\n")


def markdown(text: str) -> str:
    """Return a text on one line as Markdown that shows it: no markup, link, HTML, entity or formula begins in it."""
    plain = html.escape(one_line(text), quote=False)
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])|[\\`*\[\]~$@]|:(?=//)|(?<=www)\.", r"\\\g<0>", plain)


def code(text: str) -> str:
    """Return a text on one line as a code span of Markdown, in which nothing has another meaning."""
    plain = one_line(text) or " "
    fence = _fence(plain, 1)
    pad = " " if "`" in (plain[0], plain[-1]) else ""
    return f"{fence}{pad}{plain}{pad}{fence}"


def code_block(text: str, language: str = "") -> str:
    """Return lines as a fenced block of Markdown that none of them ends."""
    fence = _fence(text, 3)
    return f"{fence}{language}\n{visible(text).rstrip()}\n{fence}"


def yaml_text(value: Any) -> str:
    """Return a value as YAML, in which characters that turn or hide text are escapes."""
    import yaml

    dump = functools.partial(yaml.safe_dump, value, sort_keys=False, default_flow_style=False, width=120)
    text = dump(allow_unicode=True)
    return text if visible(text) == text else dump()


def _fence(text: str, least: int) -> str:
    return "`" * max(least, 1 + max(map(len, re.findall("`+", text)), default=0))
