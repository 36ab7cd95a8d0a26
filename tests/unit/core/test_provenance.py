"""A digest follows the code that runs and nothing else; results appear whole; small files are read strictly."""

import hashlib

import pytest

from nan_merge.core.atomic import atomic_write
from nan_merge.core.code_digest import code_digest, imports, module_file
from nan_merge.core.command_line import command_line
from nan_merge.core.digests import sha256
from nan_merge.core.errors import UserError
from nan_merge.core.files import canonical, read_json, read_table, write_json, write_table
from nan_merge.core.versions import versions

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
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def after(project, name, old, new):
    """Return the digests of scripts.top before and after one replacement in a file."""
    before = code_digest(project, "scripts.top")
    file = project / name
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    return before, code_digest(project, "scripts.top")


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
    first = code_digest(elsewhere, "scripts.top", "scripts.other")
    elsewhere.rename(project)
    assert code_digest(project, "scripts.other", "scripts.top") == first
    assert len(first) == 16


def test_imports_are_those_of_the_project(project):
    assert imports(project, "scripts.top") == {"nan_merge.deep"}
    assert imports(project, "nan_merge.deep") == {"nan_merge", "nan_merge.leaf"}
    with pytest.raises(FileNotFoundError, match=r"no module scripts.absent"):
        module_file(project, "scripts.absent")


def test_a_published_file_appears_at_the_end_and_replaces_the_old_one(tmp_path):
    target = tmp_path / "new" / "result.txt"
    with atomic_write(target) as part:
        part.write_text("first")
        assert not target.exists()
    with atomic_write(target) as part:
        part.write_text("second")
        assert target.read_text() == "first"
    assert target.read_text() == "second"
    assert [path.name for path in target.parent.iterdir()] == ["result.txt"]


def test_a_published_folder_replaces_the_old_one_whole(tmp_path):
    for name in ("old", "new"):
        with atomic_write(tmp_path / "folder") as part:
            (part / "sub").mkdir(parents=True)
            (part / "sub" / name).write_text(name)
    assert [path.name for path in (tmp_path / "folder/sub").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("folder", [False, True])
def test_what_breaks_off_leaves_the_old_result_and_no_litter(folder, tmp_path):
    with atomic_write(tmp_path / "result") as part:
        part.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_write(tmp_path / "result") as part:
        if folder:
            part.mkdir()
        (part / "half" if folder else part).write_text("half")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["result"]
    assert (tmp_path / "result").read_text() == "old"


def test_sha256_is_the_standard_one(tmp_path):
    (tmp_path / "file").write_bytes(bytes(3_000_000))
    assert sha256(tmp_path / "file") == hashlib.sha256(bytes(3_000_000)).hexdigest()


def test_versions_name_what_numbers_depend_on():
    assert {"python", "machine", "numpy"} <= versions().keys()


def test_json_is_canonical_strict_and_named(tmp_path):
    assert canonical({"b": 1.0, "a": [None, "λ"]}) == '{"a":[null,"λ"],"b":1.0}'
    write_json(tmp_path / "x.json", {"b": 0.1, "a": 2})
    assert read_json(tmp_path / "x.json") == {"a": 2, "b": 0.1}
    assert (tmp_path / "x.json").read_text() == '{\n "a": 2,\n "b": 0.1\n}\n'
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(tmp_path / "x.json", float("nan"))
    assert read_json(tmp_path / "x.json") == {"a": 2, "b": 0.1}
    for content in (b"{", b"\xff", b"[" * 100_000):
        (tmp_path / "y.json").write_bytes(content)
        with pytest.raises(UserError, match=r"y.json: not valid JSON"):
            read_json(tmp_path / "y.json")
    with pytest.raises(UserError, match="there is no such file"):
        read_json(tmp_path / "absent.json")


def test_tables_keep_words_and_numbers(tmp_path):
    rows = [{"method": "nan", "value": 0.1, "note": None}, {"method": "a b", "value": 1 / 3, "note": 'say "x"'}]
    write_table(tmp_path / "t.tsv", rows, ["method", "value", "note"])
    found = read_table(tmp_path / "t.tsv")
    assert [row["method"] for row in found] == ["nan", "a b"]
    assert [float(row["value"]) for row in found] == [0.1, 1 / 3]
    assert [row["note"] for row in found] == ["", 'say "x"']
    with pytest.raises(UserError, match="column 'value' would hold NaN"):
        write_table(tmp_path / "t.tsv", [{"value": float("nan")}], ["value"])
    assert read_table(tmp_path / "t.tsv") == found
    with pytest.raises(UserError, match="there is no such table"):
        read_table(tmp_path / "absent.tsv")


def test_a_users_mistake_ends_in_one_line(capsys, tmp_path):
    def mistaken():
        raise UserError("say this")

    def denied():
        raise PermissionError(13, "Permission denied", "results")

    for main, line in ((mistaken, "error: say this\n"), (denied, "error: Permission denied (results): make the folder writable")):
        with pytest.raises(SystemExit) as stop:
            command_line(main)
        assert stop.value.code == 1
        assert capsys.readouterr().err.startswith(line)
    with pytest.raises(FileNotFoundError):
        command_line(lambda: (tmp_path / "absent").read_text())
