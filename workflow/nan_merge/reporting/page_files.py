"""Read what the report embeds of other files: figures, tables, and files to download."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from markupsafe import Markup

from nan_merge.core.errors import UserError
from nan_merge.reporting.formats import ESCAPED

DUBLIN = "{http://purl.org/dc/elements/1.1/}"
NUMBER = re.compile(r"[−+<]?[\d,]*\.?\d+")
SAFE = ",;:/?@&=+$!*()"  # in a data URL these stand for themselves
TYPES = {".csv": "text/csv", ".tsv": "text/tab-separated-values"}


def figure_of(file: Path) -> dict[str, Any]:
    """Return an SVG for embedding, with its title and caption."""
    text = file.read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    metadata = {tag: root.findtext(f".//{DUBLIN}{tag}", "") for tag in ("title", "description")}
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(metadata["title"])}" ', 1)
    stem = html.escape(file.stem)
    text = re.sub(r'\bid="', lambda found: f"{found[0]}{stem}-", text)  # ids of one page are unique
    text = re.sub(r'href="#|url\(#', lambda found: f"{found[0]}{stem}-", text.replace('xlink:href="#', 'href="#'))
    return {"svg": Markup(text), **metadata}


def table_of(file: Path) -> dict[str, Any]:
    """Return a Markdown table as title, header, rows and notes, with footnote marks and line breaks as HTML.

    `numbers` are what to sort by: the first number of each numeric cell as text, empty without one, None in other columns.
    """
    lines = file.read_text(encoding="utf-8").split("\n")
    rows = [[_inline(cell) for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines if line.startswith("|")]
    if len(rows) < 2:
        raise UserError(f"{file}: expected a Markdown table, found none; render the table again")
    numeric = [re.search(r"-:\s*$", str(cell)) is not None for cell in rows[1]]
    numbers = [[_leading(cell) if of else None for cell, of in zip(row, numeric, strict=True)] for row in rows[2:]]
    notes = [_inline(line.removeprefix("- ")) for line in lines if line.startswith("- ")]
    return {
        "title": _inline(lines[0].removeprefix("### ")),
        "header": rows[0],
        "rows": rows[2:],
        "numbers": numbers,
        "numeric": numeric,
        "notes": notes,
        "csv": file.with_suffix(".csv"),
    }


def _inline(text: str) -> Markup:
    """Turn the Markdown that `formats` writes (escapes, <sup>, <br>) into HTML."""
    parts = re.split(r"(<br>|<sup>[a-z]+</sup>)", text.strip())
    plain = (part if index % 2 else html.escape(ESCAPED.sub(r"\1", part)) for index, part in enumerate(parts))
    return Markup("".join(plain))


def _leading(cell: str) -> str:
    found = NUMBER.match(cell)
    return found[0].lstrip("+<").replace("−", "-").replace(",", "") if found else ""


def download(name: str, text: str) -> tuple[str, str]:
    """Return the name of a file and an address that holds its whole text, for a link that works without a network."""
    return name, f"data:{TYPES[Path(name).suffix]};charset=utf-8,{quote(text, safe=SAFE)}"


def downloads(files: list[Path]) -> list[tuple[str, str]]:
    """Return the same of files on disk; one that is not there is left out."""
    return [download(file.name, file.read_text(encoding="utf-8")) for file in files if file.exists()]
