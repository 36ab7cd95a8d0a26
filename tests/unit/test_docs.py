"""The pages are current, their links lead somewhere, and the front page is short."""

import re
import sys
from urllib.parse import unquote

import pytest
import yaml
from models import ROOT

from nan_merge.archive.container import MANIFEST, opened
from nan_merge.catalogue.tune import SCHEMA as TUNE
from nan_merge.core.errors import UserError
from scripts import write_docs

PAGES = {page.relative_to(ROOT).as_posix(): page for page in write_docs.pages()}
SCHEMAS = {file.name.split(".")[0]: file for file in (ROOT / "workflow/schemas").iterdir()}


def prose(page):
    """Return the text of a page without code blocks and code spans."""
    return re.sub(r"(?ms)^```.*?^```$|`[^`\n]*`", "", page.read_text(encoding="utf-8"))


def anchors(page):
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"(?ms)^```.*?^```$", "", page.read_text(encoding="utf-8"))
    shown = [re.sub(r"&[lg]t;|[^\w\- ]", "", heading.lower()) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)]
    return {heading.replace(" ", "-") for heading in shown}


@pytest.mark.parametrize("name", PAGES)
def test_the_generated_parts_of_a_page_are_current(name):
    assert write_docs.generated(PAGES[name]) == PAGES[name].read_text(encoding="utf-8"), "run `make docs`"


def test_a_stale_page_is_named_and_left_as_it_is(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("<!-- generated: keys calibration -->\nold\n<!-- end -->\n")
    monkeypatch.setattr(write_docs, "pages", lambda: [page])
    monkeypatch.setattr(sys, "argv", ["write_docs", "--check"])
    with pytest.raises(UserError, match=r"page\.md: .*run `make docs`"):
        write_docs.main()
    assert "old" in page.read_text()
    monkeypatch.setattr(sys, "argv", ["write_docs"])
    write_docs.main()
    assert "| `examples` | integer ≥ 1, required |" in page.read_text() and "old" not in page.read_text()


@pytest.mark.parametrize("file", sorted(write_docs.ARCHIVES.glob("*.zip")), ids=lambda file: file.stem)
def test_an_archived_run_of_the_docs_holds_what_its_manifest_lists(file, tmp_path):
    with opened(file) as archive:
        found = archive.extract(tmp_path)
    del found[MANIFEST]
    assert {name: record["sha256"] for name, record in archive.files.items()} == found
    assert file.stat().st_size < 5_000_000


def test_an_unknown_part_is_told(tmp_path):
    (tmp_path / "page.md").write_text("<!-- generated: key config -->\n<!-- end -->\n")
    with pytest.raises(UserError, match="unknown 'key'; did you mean 'keys'"):
        write_docs.generated(tmp_path / "page.md")


@pytest.mark.parametrize("name", PAGES)
def test_every_relative_link_leads_to_a_file_and_a_heading(name):
    page, dead = PAGES[name], []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        path, _, anchor = unquote(link).partition("#")
        target = page.parent / path if path else page
        if not re.match(r"https?://", link) and (not target.exists() or (anchor and anchor not in anchors(target))):
            dead.append(link)
    assert dead == []


def test_every_page_of_docs_is_in_the_index():
    links = set(re.findall(r"\]\(([\w-]+\.md)\)", (ROOT / "docs/README.md").read_text(encoding="utf-8")))
    assert links == {page.name for page in ROOT.glob("docs/*.md")} - {"README.md"}


def test_the_front_page_is_read_in_two_minutes():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if len(line) > 100 and not line.startswith("|")] == []


def test_the_cpu_build_is_that_of_the_pinned_versions():
    pinned = re.findall(r"^(torch(?:vision)?==\S+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    named = re.findall(r"torch(?:vision)?==\S+", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert named == pinned and len(pinned) == 2


def test_every_key_of_a_search_is_described():
    assert [key for key, _, meaning in write_docs.rows(TUNE, {}) if not meaning] == []


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_key_of_a_schema_is_described_and_none_is_cut_off(name):
    schema = yaml.safe_load(SCHEMAS[name].read_text(encoding="utf-8"))

    def empty(value):  # what a comma in a text without quotes leaves behind: `{description: a, b}` has a key `b`
        if isinstance(value, dict):
            return [key for key, inner in value.items() if inner is None] + [k for inner in value.values() for k in empty(inner)]
        return [key for inner in value for key in empty(inner)] if isinstance(value, list) else []

    assert empty(schema) == []
    top = schema if "properties" in schema else schema["additionalProperties"]
    assert [key for key, _, meaning in write_docs.rows(top, schema.get("$defs", {})) if not meaning] == []
    assert f"<!-- generated: keys {name} -->" in (ROOT / "config/README.md").read_text(encoding="utf-8")


def test_a_key_is_a_row_with_its_values():
    schema = {"required": ["a"], "properties": {"a": {"enum": ["x", "y"], "description": "d"}, "b": {"$ref": "#/$defs/n"}}}
    definitions = {"n": {"type": "object", "additionalProperties": {"properties": {"c": {"type": "number", "minimum": 0}}}}}
    rows = list(write_docs.rows(schema, definitions))
    assert rows == [("`a`", "`x`, `y`, required", "d"), ("`b`", "mapping", ""), ("`b.<name>.c`", "number ≥ 0", "")]
    assert write_docs.table(["k"], [["`<a>` <b> |"]]) == "| k |\n| --- |\n| `<a>` &lt;b> \\| |\n"
