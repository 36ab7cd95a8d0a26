"""A digest changes with the code that runs and with nothing else."""

import ast
import inspect
from pathlib import Path

import pytest

from nan_merge.core.code_digest import Code, dumped

TOP = '''"""A script."""
from nan_merge.deep import inner


def run(x):
    return inner(x) + 1
'''
DEEP = "import numpy\nfrom nan_merge import leaf\n\ndef inner(x):\n    return leaf.double(x)\n"


@pytest.fixture
def project(tmp_path):
    files = {
        "scripts/top.py": TOP,
        "scripts/other.py": "x = 1\n",
        "workflow/nan_merge/__init__.py": "",
        "workflow/nan_merge/deep.py": DEEP,
        "workflow/nan_merge/leaf.py": "def double(x):\n    return 2 * x\n",
        "workflow/nan_merge/leaf.report.j2": "<p>{{ x }}</p>",
        "workflow/nan_merge/leaf.css": "p { color: black }",
        "workflow/nan_merge/leaf.js": "let x = 1;",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def after(project, name, old, new):
    """Return the digests of scripts.top before and after one replacement in a file."""
    before = Code(project).digest("scripts.top")
    file = project / name
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    return before, Code(project).digest("scripts.top")


HARMLESS = {
    "a comment": ("scripts/top.py", "def run", "# what runs\ndef run"),
    "another docstring": ("scripts/top.py", "A script.", "The script."),
    "no docstring": ("scripts/top.py", '"""A script."""\n', ""),
    "a docstring more": ("workflow/nan_merge/leaf.py", "x):\n", 'x):\n    """Double x."""\n'),
    "another layout": ("workflow/nan_merge/leaf.py", "2 * x", "(\n        2 * x\n    )"),
    "a module that is not imported": ("scripts/other.py", "1", "2"),
}
MEANT = {
    "a function": ("scripts/top.py", "+ 1", "+ 2"),
    "a function of an imported module": ("workflow/nan_merge/deep.py", "double(x)", "double(-x)"),
    "a function further down": ("workflow/nan_merge/leaf.py", "2 * x", "3 * x"),
    "a default": ("workflow/nan_merge/leaf.py", "(x)", "(x=0)"),
    "a string that is no docstring": ("workflow/nan_merge/leaf.py", "2 * x", "'2 * x'"),
    "a template beside a module": ("workflow/nan_merge/leaf.report.j2", "<p>", "<b>"),
    "a style sheet beside a module": ("workflow/nan_merge/leaf.css", "black", "red"),
    "a script beside a module": ("workflow/nan_merge/leaf.js", "1", "2"),
}


@pytest.mark.parametrize("change", HARMLESS)
def test_the_digest_ignores(change, project):
    before, now = after(project, *HARMLESS[change])
    assert before == now


@pytest.mark.parametrize("change", MEANT)
def test_the_digest_follows(change, project):
    before, now = after(project, *MEANT[change])
    assert before != now


def test_the_digest_is_that_of_the_code_not_of_the_place_or_the_order(project, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "clone"
    project.rename(elsewhere)
    first = Code(elsewhere).digest("scripts.top", "scripts.other")
    elsewhere.rename(project)
    assert Code(project).digest("scripts.other", "scripts.top") == first
    assert len(first) == 16


def test_code_is_seen_as_it_was_when_it_was_first_read(project):
    code = Code(project)
    before = code.digest("scripts.top")
    (project / "workflow/nan_merge/leaf.py").write_text("def double(x):\n    return 3 * x\n")
    assert code.digest("scripts.top") == before != Code(project).digest("scripts.top")


def test_a_cache_saves_parsing_and_changes_no_digest(project, monkeypatch):
    cache, plain = project / "made/cache.json", Code(project).digest("scripts.top", "scripts.other")
    assert Code(project, cache).digest("scripts.top", "scripts.other") == plain
    parsed = []
    monkeypatch.setattr(ast, "parse", lambda text, parse=ast.parse: parsed.append(text) or parse(text))
    assert Code(project, cache).digest("scripts.top", "scripts.other") == plain and not parsed
    (project / "workflow/nan_merge/leaf.py").write_text("def double(x):\n    return 3 * x\n")
    changed = Code(project, cache).digest("scripts.top", "scripts.other")
    assert len(parsed) == 1 and changed == Code(project).digest("scripts.top", "scripts.other") != plain


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"\xff", b"[1]"])
def test_a_cache_that_cannot_be_used_is_done_without(content, project, tmp_path):
    cache = tmp_path / "cache.json"
    cache.mkdir() if content is None else cache.write_bytes(content)
    assert Code(project, cache).digest("scripts.top") == Code(project).digest("scripts.top")


def test_imports_are_those_of_the_project(project):
    assert Code(project).source("scripts.top").imported == {"nan_merge.deep"}
    assert Code(project).source("nan_merge.deep").imported == {"nan_merge", "nan_merge.leaf"}
    with pytest.raises(FileNotFoundError, match=r"no module scripts.absent"):
        Code(project).source("scripts.absent")


def test_a_tree_is_dumped_as_python_does_it_less_docstrings():
    """The text is that of Python 3.11, which later versions shorten: digests are the same in all of them."""
    files = sorted((Path(__file__).parents[3] / "workflow/nan_merge/core").glob("*.py"))
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in files]
    assert len(trees) > 10
    shown = {"show_empty": True} if "show_empty" in inspect.signature(ast.dump).parameters else {}
    for tree in trees:
        text = dumped(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
                del node.body[0]
        assert text == ast.dump(tree, **shown)
