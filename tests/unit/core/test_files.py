"""JSON, tables and digests are strict; a user error ends a script with one line."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nan_merge.core.command_line import command_line
from nan_merge.core.errors import UserError
from nan_merge.core.files import canonical, read_json, read_table, sha256, write_json, write_table
from nan_merge.core.versions import recorded_versions, versions

ROOT = Path(__file__).parents[3]


def test_sha256_is_the_standard_one(tmp_path):
    (tmp_path / "file").write_bytes(bytes(3_000_000))
    assert sha256(tmp_path / "file") == hashlib.sha256(bytes(3_000_000)).hexdigest()


def test_versions_name_what_numbers_depend_on():
    assert {"python", "machine", "numpy"} <= versions().keys()


def test_versions_of_several_records_are_told_together():
    made = [{"provenance": {"versions": given}} for given in ({"torch": "2.9", "numpy": "2.4"}, {"torch": "2.10"})]
    assert recorded_versions([{}, {"provenance": {}}, *made, made[0]]) == {"numpy": "2.4", "torch": "2.10, 2.9"}


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

    absent = tmp_path / "absent"
    for main, line in (
        (mistaken, "error: say this\n"),
        (denied, "error: Permission denied (results): inputs must be readable"),
        (absent.read_text, f"error: No such file or directory ({absent}): correct the path"),
    ):
        with pytest.raises(SystemExit) as stop:
            command_line(main)
        assert stop.value.code == 1
        assert capsys.readouterr().err.startswith(line)


PROGRAM = """
import atexit, gc, sys, threading, time
from nan_merge.core.command_line import command_line

class Module:
    def __del__(self):
        print("module taken apart", flush=True)

kept = Module()
gc.disable()

def main():
    assert gc.isenabled() and gc.get_freeze_count()
    atexit.register(print, "registered")
    threading.Thread(target=lambda: (time.sleep(0.3), print("thread"))).start()
    print("main")
    sys.exit(3) if "3" in sys.argv else None

command_line(main)
print("behind")
"""


def test_a_program_ends_with_its_main_and_takes_no_module_apart():
    """Threads are waited for, functions of atexit run, and what was printed arrives, as at any end of Python."""
    run = {"env": {**os.environ, "PYTHONPATH": str(ROOT / "workflow")}, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-c", PROGRAM], **run, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "main\nthread\nregistered\n", "")
    failed = subprocess.run([sys.executable, "-c", PROGRAM, "3"], **run, check=False)
    assert failed.returncode == 3


def test_collection_is_off_while_a_script_imports_and_on_elsewhere(tmp_path):
    code = "import gc, scripts; print(gc.isenabled())"
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    for file in ("program.py", "scripts/shown.py"):
        (tmp_path / file).write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def said(*command):
        run = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
        return subprocess.run([sys.executable, *command], **run, check=True).stdout

    assert said("-c", code) == said(str(tmp_path / "program.py")) == "True\n"
    assert said("-m", "scripts.shown") == "False\n"
