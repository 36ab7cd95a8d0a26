"""Format numbers; write a table of cells and notes as CSV, Markdown and LaTeX."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nan_merge.core.atomic import atomic_write
from nan_merge.core.escape import visible

BREAK = "\n"  # within a cell
MARKUP = re.compile(r"[\\|*_<>`$~]|\](?=[(\[:])|(?<=!)\[|&(?=#?\w+;)")  # what has a meaning in Markdown, escaped by a backslash
ESCAPED = re.compile(r"\\([\\|*_<>`$~\[\]&])")  # by it


def percent(fraction: float | None, digits: int = 1, signed: bool = False) -> str:
    """Format a fraction in per cent without the sign (0.743 is 74.3), empty for None; a rounded zero has no sign."""
    if fraction is None:
        return ""
    return signed_number(100 * fraction, digits, signed)


def signed_number(value: float, digits: int, signed: bool = True) -> str:
    """Format a number with a true minus sign and, if `signed`, a plus sign."""
    rounded = round(value, digits)
    sign = "−" if rounded < 0 else "+" if signed and rounded > 0 else ""
    return f"{sign}{abs(rounded):.{digits}f}"


def spread(fraction: float) -> str:
    """Format a relative difference in per cent with two significant digits and without an exponent."""
    value = 100 * fraction
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}" if value >= 1e-4 or value == 0 else f"{value:.6f}"


def exceeds(fraction: float) -> str:
    """Say by how much the largest of some numbers is larger than the smallest."""
    return f"exceeds the smallest by {spread(fraction)} %" if math.isfinite(fraction) else "is positive and the smallest is zero"


def interval(low: float | None, high: float | None, digits: int = 1, signed: bool = False) -> str:
    """Format an interval of fractions in per cent."""
    return "" if low is None else f"[{percent(low, digits, signed)}, {percent(high, digits, signed)}]"


def p_value(p: float | None) -> str:
    """Format a p-value with three decimals."""
    return "" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def count(value: Any) -> str:
    """Format a whole number with thousands separated by commas."""
    return "" if value in (None, "") else f"{int(value):,}"


def number_of(size: int, what: str) -> str:
    """Format a number of things, by their name for one, whose first noun takes the plural: `1 task`, `3 seeds of draws`."""
    noun, of, rest = what.partition(" of ")
    return f"{size:,} {noun}{'' if size == 1 else 's'}{of}{rest}"


@dataclass
class Table:
    """Cells as text for reading and records as numbers for machines. Columns in `text` align left, the others right.

    Footnotes are marked a, b, c in order of appearance; a cell may have several lines.
    """

    title: str
    header: list[str]
    records: list[dict[str, Any]] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    footnotes: list[str] = field(default_factory=list)
    breaks: set[int] = field(default_factory=set)
    text: tuple[int, ...] = (0,)
    group: Any = None  # of the latest row

    def mark(self, text: str, footnote: str) -> str:
        """Return a cell's text with the mark of a footnote, which is added once."""
        if not footnote:
            return text
        if footnote not in self.footnotes:
            self.footnotes.append(footnote)
        return f"{text}^{letter(self.footnotes.index(footnote))}^"

    def add(self, cells: Sequence[str], record: dict[str, Any], group: Any = None) -> None:
        """Append a row; a rule is drawn where the group changes."""
        if self.rows and group != self.group:
            self.breaks.add(len(self.rows))
        self.group = group
        self.rows.append(list(cells))
        self.records.append(record)

    @property
    def remarks(self) -> list[str]:
        """Footnotes with their marks, then the general notes."""
        marked = [f"^{letter(index)}^ {text}" for index, text in enumerate(self.footnotes)]
        return [*marked, *self.notes]


def letter(index: int) -> str:
    """Return a, b, ..., z, aa, ab, ... for 0, 1, ..."""
    return (letter(index // 26 - 1) if index >= 26 else "") + "abcdefghijklmnopqrstuvwxyz"[index % 26]


def write_csv(table: Table, path: Path) -> None:
    """Write the records; empty cells are missing numbers, fractions are not rounded."""
    columns = list(dict.fromkeys(key for record in table.records for key in record))
    with atomic_write(path) as part, open(part, "w", encoding="utf-8", newline="") as lines:
        writer = csv.DictWriter(lines, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _plain(value) for key, value in record.items()} for record in table.records)


def _plain(value: Any) -> Any:
    return "" if value is None else visible(value) if isinstance(value, str) else value


def write_markdown(table: Table, path: Path) -> None:
    """Write an aligned pipe table with its title above and its notes below."""
    _publish(path, "\n".join([f"### {_markdown(table.title)}", "", *markdown(table)]))


def markdown(table: Table) -> list[str]:
    """Return the lines of an aligned pipe table with its notes below."""
    cells = [[_markdown(cell) for cell in row] for row in [table.header, *table.rows]]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(table.header))]

    def line(row: list[str]) -> str:
        formatted = (
            text.ljust(width) if column in table.text else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        return f"| {' | '.join(formatted)} |"

    rule = [":" + "-" * (w - 1) if column in table.text else "-" * (w - 1) + ":" for column, w in enumerate(widths)]
    return [line(cells[0]), line(rule), *map(line, cells[1:]), "", *(f"- {_markdown(note)}" for note in table.remarks)]


def write_latex(table: Table, path: Path) -> None:
    """Write a booktabs table, notes below; needs `booktabs` and UTF-8, and scales to the text width with graphicx.

    pdfTeX knows its Latin and Greek letters; labels in other scripts need LuaTeX or XeTeX, and a font that has them.
    """
    lines = [
        r"\begin{table}",
        r"\centering\footnotesize",
        rf"\caption{{{_latex(visible(table.title).replace(BREAK, ' '))}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{''.join('l' if i in table.text else 'r' for i in range(len(table.header)))}}}",
        r"\toprule",
        " & ".join(map(_latex, table.header)) + r" \\",
        r"\midrule",
    ]
    for index, row in enumerate(table.rows):
        lines += [r"\midrule"] if index in table.breaks else []
        lines.append(" & ".join(map(_latex, row)) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}}", r"\par\smallskip\raggedright"]
    lines += [_latex(note) + r"\par" for note in table.remarks]
    _publish(path, "\n".join([*lines, r"\end{table}"]))


def _publish(path: Path, text: str) -> None:
    with atomic_write(path) as part:
        part.write_text(text.rstrip() + "\n", encoding="utf-8")


def _markdown(text: str) -> str:
    text = MARKUP.sub(r"\\\g<0>", visible(text))
    return re.sub(r"\^([a-z]+)\^", r"<sup>\1</sup>", text).replace(BREAK, "<br>")


def _latex(text: str) -> str:
    text = visible(text)
    if BREAK in text:
        return r"\begin{tabular}[t]{@{}l@{}}" + r"\\".join(map(_latex, text.split(BREAK))) + r"\end{tabular}"
    parts = re.split(r"\^([a-z]+)\^", text)
    formatted = ["".join(_TEX.get(character, character) for character in part) for part in parts]
    return "".join(part if index % 2 == 0 else rf"\textsuperscript{{{part}}}" for index, part in enumerate(formatted))


_GREEK = "αβγδεζηθικλμνξπρςστυφχψωΓΔΘΛΞΠΣΥΦΨΩ"
_NAMES = (
    *("alpha", "beta", "gamma", "delta", "varepsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu", "xi", "pi"),
    *("rho", "varsigma", "sigma", "tau", "upsilon", "varphi", "chi", "psi", "omega"),
    *("Gamma", "Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma", "Upsilon", "Phi", "Psi", "Omega"),
)
_TEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": r"\textbar{}",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "–": "--",
    "∝": r"$\propto$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "≈": r"$\approx$",
    "≠": r"$\neq$",
    "→": r"$\to$",
    "∞": r"$\infty$",
    "√": r"$\surd$",
    "‖": r"$\Vert$",
    "[": "{[}",  # at the start of a row it would be an option of the line break before it, as the star its other form
    "*": "{*}",
    "\u202f": r"\,",
    "\u00a0": "~",
    **dict(zip("ΑΒΕΖΗΙΚΜΝΟΡΤΧο", "ABEZHIKMNOPTXo", strict=True)),  # Greek letters that TeX has as Latin ones
    **{letter: rf"$\{name}$" for letter, name in zip(_GREEK, _NAMES, strict=True)},
}


def write(table: Table, output: Path | str) -> None:
    """Write a table as `output`.csv, .md and .tex."""
    for suffix, writer in {".csv": write_csv, ".md": write_markdown, ".tex": write_latex}.items():
        writer(table, Path(f"{output}{suffix}"))
