"""Write the generated parts of the pages: keys, hosts, variants and operators, tables of archived runs and of benchmarks.

A part stands between `<!-- generated: KIND NAME -->` and `<!-- end -->`; the rest of a page is written by hand.
"""

import argparse
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.pages import measured
from nan_merge.archive import pages as archived
from nan_merge.archive.container import opened
from nan_merge.catalogue.files import known_names, read_yaml
from nan_merge.catalogue.labels import described
from nan_merge.catalogue.methods import REFERENCES, Catalogue, takes
from nan_merge.catalogue.tune import SCHEMA as TUNE
from nan_merge.core.command_line import command_line
from nan_merge.core.errors import UserError
from nan_merge.methods.schema import stages

ROOT = Path(__file__).resolve().parents[1]
ARCHIVES = ROOT / "docs/archives"
PART = re.compile(r"(<!-- generated: (\w+) ([\w/]+) -->\n).*?(<!-- end -->)", re.DOTALL)
TYPES = {"string": "text", "object": "mapping", "boolean": "`true` or `false`", "null": "`null`"}
BOUNDS = {"minimum": "≥ ", "exclusiveMinimum": "> ", "maximum": "≤ ", "exclusiveMaximum": "< "}
NEEDS = {"none": "–", "validation": "validation split", "train": "training split", "unlabelled test": "unlabelled test inputs"}


def main() -> None:
    """Parse the command line and write the pages that differ; with `--check` name them and end with exit code 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a page is not current")
    check = parser.parse_args().check
    stale = {page: text for page, text in ((page, generated(page)) for page in pages()) if text != page.read_text("utf-8")}
    if check and stale:
        names = ", ".join(os.path.relpath(page, ROOT) for page in stale)
        raise UserError(f"{names}: the generated parts are not current; run `make docs`")
    for page, text in stale.items():
        page.write_text(text, encoding="utf-8")
        print(os.path.relpath(page, ROOT))


def pages() -> list[Path]:
    """Return every Markdown page of the project that a reader may open."""
    return [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("*/README.md"))]


def generated(page: Path) -> str:
    """Return the text of a page with its generated parts made anew; a UserError names an unknown part."""

    def part(match: re.Match[str]) -> str:
        begin, kind, name, end = match.groups()
        known_names(f"{page}: <!-- generated: {kind} {name} -->", [kind], PARTS)
        return f"{begin}{PARTS[kind](name)}{end}"

    return PART.sub(part, page.read_text(encoding="utf-8"))


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; cells are text in which `<`, `|` and code spans may occur."""
    shown = [head, ["---"] * len(head), *([_escaped(cell) for cell in line] for line in lines)]
    return "".join(f"| {' | '.join(line)} |\n" for line in shown)


def _escaped(cell: str) -> str:
    linked = re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", cell.replace("|", "\\|"))
    spans = re.split(r"(`[^`]*`)", linked)
    return "".join(span if span.startswith("`") else span.replace("<", "&lt;").replace("*", "\\*") for span in spans)


# ---- keys of the config ----------------------------------------------------------------------------------------------


def keys(name: str) -> str:
    """Return the table of the keys of a config file, from workflow/schemas/<name>.schema.yaml."""
    schema = read_yaml(ROOT / f"workflow/schemas/{name}.schema.yaml")
    top = schema if "properties" in schema else schema["additionalProperties"]
    return table(["key", "value", "meaning"], rows(top, {**schema.get("$defs", {}), "tune": TUNE}))


def operators(stage: str) -> str:
    """Return the table of the operators of a stage with their hyper-parameters, from signatures and docstrings."""
    return table(["operator", "value", "meaning"], rows(stages()[stage]["anyOf"][1], {}))


def rows(schema: Mapping[str, Any], definitions: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield key, value and meaning of every key below a schema; `<name>` stands for a name that the user chooses."""
    schema = _resolved(schema, definitions)
    required = schema.get("required", ())
    for key, entry in schema.get("properties", {}).items():
        entry = _resolved(entry, definitions)
        value = [_value(entry, definitions), "required" if key in required else "", _default(entry)]
        yield f"`{prefix}{key}`", ", ".join(filter(None, value)), entry.get("description", "")
        yield from rows(entry, definitions, f"{prefix}{key}.")
    for branch in schema.get("anyOf", ()):
        yield from rows(branch, definitions, prefix)
    for named in (schema.get("additionalProperties"), *schema.get("patternProperties", {}).values()):
        if isinstance(named, Mapping):
            yield from rows(named, definitions, f"{prefix}<name>.")


def _resolved(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a schema with what its `$ref` names; the stages of a method are defined by the operators."""
    name = schema.get("$ref", "").rpartition("/")[2]
    return {**definitions.get(name, {"type": "operator"}), **schema} if name else schema


def _default(entry: Mapping[str, Any]) -> str:
    default = entry.get("default")
    shown = f"{default:g}" if type(default) is float else str(default).lower() if type(default) is bool else default
    return "" if default in (None, "") else f"default `{shown}`"


def _value(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    schema = _resolved(schema, definitions)
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "else" in schema:  # `varying.Varies`
        return f"{_value(schema['else'], definitions)} (may vary)"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_value(branch, definitions) for branch in schema["anyOf"]))
    types = schema.get("type", "object")
    if types == "array":
        return f"list of {_value(schema['items'], definitions)}"
    if schema.get("additionalProperties") is False:  # its keys are rows of their own
        return ""
    said = " or ".join(TYPES.get(kind, kind) for kind in ([types] if isinstance(types, str) else types))
    bounds = [f"{sign}{schema[key]}" for key, sign in BOUNDS.items() if key in schema]
    return f"{said} {', '.join(bounds)}".strip()


# ---- the catalogue ---------------------------------------------------------------------------------------------------


def hosts(group: str) -> str:
    """Return the table of the hosts of a group: id, name, what, paper, data, what it takes, whether variants can be put on it."""
    catalogue = Catalogue(ROOT)
    entries = {name: catalogue.entry(name) for name in catalogue.hosts}
    lines = []
    for name, entry in entries.items():
        if entry.get("group", "host") == group:
            record = described(entry, name)
            whole = "–" if name in REFERENCES else takes(record)
            about = (record["label"], record["summary"], _paper(record), _data(record), whole)
            lines.append((f"`{name}`", *about, _is_host(catalogue, name)))
    return table(["method", "label", "what", "paper", "needs", "takes", "variants"], lines)


def variants(group: str) -> str:
    """Return the table of the variants of a group: id, label, what, paper, data."""
    found = Catalogue(ROOT).described_variants()
    records = {name: record for name, record in found.items() if record.get("group", "tune") == group}
    lines = [(f"`{name}`", record["label"], record["summary"], _paper(record), _data(record)) for name, record in records.items()]
    return table(["variant", "label", "what", "paper", "needs"], lines)


def _is_host(catalogue: Catalogue, host: str) -> str:
    """Say whether new coefficients can be put on a host, and why not."""
    try:
        catalogue.entry(f"{host}+nan_delta")
    except UserError as error:
        return f"no: {str(error).rpartition(': ')[2]}"
    return "yes"


def _paper(record: Mapping[str, Any]) -> str:
    papers = record.get("reference", "").split(", ")
    return ", ".join(f"[{paper}](https://arxiv.org/abs/{paper})" for paper in papers if paper)


def _data(record: Mapping[str, Any]) -> str:
    data = record.get("data", "none")
    return NEEDS.get(data, data)


# ---- archived runs ---------------------------------------------------------------------------------------------------


def averages(place: str) -> str:
    """Return the averages of the methods on a suite of an archived run: ARCHIVE/SUITE."""
    name, _, suite = place.partition("/")
    with opened(ARCHIVES / f"{name}.zip") as archive:
        return table(archived.AVERAGES, archived.averages(archive, suite))


def beside(place: str) -> str:
    """Return the averages of the methods on a suite of an archived run beside those with a variant: ARCHIVE/SUITE/VARIANT."""
    name, suite, variant = place.split("/")
    with opened(ARCHIVES / f"{name}.zip") as archive:
        head = [title.format(variant) for title in archived.BESIDE]
        return table(head, archived.beside(archive, suite, variant))


def across(name: str) -> str:
    """Return the averages of the methods on all suites of an archived run."""
    with opened(ARCHIVES / f"{name}.zip") as archive:
        return table(*archived.across(archive))


def by_experts(place: str) -> str:
    """Return the averages of an archived run on random subsets of the experts of a suite: ARCHIVE/SUITE."""
    name, _, suite = place.partition("/")
    with opened(ARCHIVES / f"{name}.zip") as archive:
        return table(*archived.by_experts(archive, suite))


def verdicts(name: str) -> str:
    """Return the verdicts of an archived run on the claims of the papers."""
    with opened(ARCHIVES / f"{name}.zip") as archive:
        return table(archived.VERDICTS, archived.verdicts(archive))


PARTS: dict[str, Callable[[str], str]] = {
    "measured": measured,
    "keys": keys,
    "operators": operators,
    "hosts": hosts,
    "variants": variants,
    "averages": averages,
    "beside": beside,
    "across": across,
    "by_experts": by_experts,
    "verdicts": verdicts,
}

if __name__ == "__main__":
    command_line(main)
