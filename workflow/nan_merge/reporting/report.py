"""Write the report: one self-contained HTML file. Claims come from `claims`, numbers from `statistics`."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jinja2
from markupsafe import Markup

from nan_merge.core.atomic import atomic_write
from nan_merge.core.errors import UserError
from nan_merge.core.escape import visible
from nan_merge.reporting.claims import claims
from nan_merge.reporting.formats import ESCAPED, count, interval, number_of, percent
from nan_merge.reporting.paired_difference import FLIPS, RESAMPLES
from nan_merge.reporting.statistics import AVERAGING, BASE, POWER, best_merge, summarise
from nan_merge.reporting.study import ACCURACY, Study

TEMPLATE = Path(__file__).with_name("report.html.j2")
ARXIV = re.compile(r"\d{4}\.\d{4,5}(, \d{4}\.\d{4,5})*")
DUBLIN = "{http://purl.org/dc/elements/1.1/}"


def write_report(
    studies: Sequence[Study],
    methods: Sequence[dict[str, Any]],
    tables: Sequence[Path | str],
    figures: Sequence[Path | str],
    provenance: dict[str, Any],
    output: Path | str,
    published: Sequence[Path | str] = (),
) -> None:
    """Write all suites as one page, with a section for each study.

    `tables` and `figures` are files named `..._{suite}.md` and `..._{suite}.svg`; `published` are printed tables (.md) with
    the measured numbers of all suites.
    """
    shown = {suffix: _by_suite(studies, files, suffix) for suffix, files in ((".md", tables), (".svg", figures))}
    sections = [
        {
            "study": study,
            "claims": claims(study),
            "averages": _averages(study),
            "merges": best_merge(study)[1],
            "choices": study.choices(),
            "figures": [_figure(file) for file in shown[".svg"][study.suite["id"]]],
            "tables": [_table(file) for file in shown[".md"][study.suite["id"]]],
        }
        for study in studies
    ]
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_shown)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        sections=sections,
        published=[_table(Path(file)) for file in published],
        methods=methods,
        ids={method["id"] for method in methods},
        learned=_learned(studies),
        provenance=provenance,
        arxiv=ARXIV.fullmatch,
        count=count,
        number_of=number_of,
        flips=FLIPS,
        resamples=RESAMPLES,
        power=POWER,
        leaves=_leaves,
        grouped=any(study.grouped for study in studies),
        sampled=any(study.samples_seeds for study in studies),
        generated=any(study.generated for study in studies),
        others=any(study.measure != ACCURACY for study in studies),
    )
    with atomic_write(Path(output)) as part:
        part.write_text(page, encoding="utf-8")


def _shown(value: Any) -> Any:
    """Return what a page can hold of a text; markup is made from such texts already."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _learned(studies: Sequence[Study]) -> list[str]:
    """Return the labels of the methods that used test inputs without their labels, in any suite."""
    used = [method for study in studies for method in study.methods if "skipped" not in method]
    return list(dict.fromkeys(m.get("label", m["id"]) for m in used if "unlabelled test" in m.get("data", "")))


def _averages(study: Study) -> list[dict[str, str]]:
    """Return the averages of the references and of the best merge."""
    best, _ = best_merge(study)
    shown = {BASE, AVERAGING, *study.uppers, best.method["id"] if best else ""}
    named = [row for row in summarise(study) if row.average.value is not None and row.method["id"] in shown]
    averages = []
    for row in sorted(named, key=lambda row: row.average.value or 0.0):
        value, limits = percent(row.average.value or 0.0), interval(row.average.low, row.average.high)
        averages.append({"label": row.method.get("label", row.method["id"]), "value": value, "interval": limits})
    return averages


def _by_suite(studies: Sequence[Study], files: Sequence[Path | str], suffix: str) -> dict[str, list[Path]]:
    names = sorted((study.suite["id"] for study in studies), key=len, reverse=True)
    found: dict[str, list[Path]] = {name: [] for name in names}
    for file in map(Path, files):
        suite = next((name for name in names if file.stem.endswith(f"_{name}")), None)
        if suite is None:
            raise UserError(f"{file}: belongs to no suite of the report; expected a name that ends in one of {names}")
        if file.suffix == suffix:
            found[suite].append(file)
    return found


def _figure(file: Path) -> dict[str, Any]:
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


def _table(file: Path) -> dict[str, Any]:
    """Return a Markdown table as title, header, rows and notes, with footnote marks and line breaks as HTML."""
    lines = file.read_text(encoding="utf-8").split("\n")
    rows = [[_inline(cell) for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines if line.startswith("|")]
    if len(rows) < 2:
        raise UserError(f"{file}: expected a Markdown table, found none; render the table again")
    numeric = [re.search(r"-:\s*$", str(cell)) is not None for cell in rows[1]]
    notes = [_inline(line.removeprefix("- ")) for line in lines if line.startswith("- ")]
    return {
        "title": _inline(lines[0].removeprefix("### ")),
        "header": rows[0],
        "rows": rows[2:],
        "numeric": numeric,
        "notes": notes,
        "file": file.with_suffix(".csv").name,
    }


def _inline(text: str) -> Markup:
    """Turn the Markdown that `formats` writes (escapes, <sup>, <br>) into HTML."""
    parts = re.split(r"(<br>|<sup>[a-z]+</sup>)", text.strip())
    plain = (part if index % 2 else html.escape(ESCAPED.sub(r"\1", part)) for index, part in enumerate(parts))
    return Markup("".join(plain))


def _leaves(value: Any, path: str = "") -> list[tuple[str, str]]:
    """Return a nested record as pairs of dotted name and text, in its order."""
    if isinstance(value, dict):
        return [leaf for key, inner in value.items() for leaf in _leaves(inner, f"{path}.{key}" if path else str(key))]
    if isinstance(value, list) and all(isinstance(inner, dict) and "id" in inner for inner in value):
        return [
            (f"{path}.{inner['id']}", "; ".join(f"{key} {of}" for key, of in inner.items() if key != "id" and of))
            for inner in value
        ]
    if isinstance(value, list):
        return [(path, ", ".join(map(str, value)))]
    return [(path, str(value))]
