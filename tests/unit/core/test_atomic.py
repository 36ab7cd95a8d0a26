"""Results appear whole or not at all: after an error, after a kill at any step, and with several writers."""

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
from models import ROOT
from project import LIMIT

from nan_merge.core import atomic
from nan_merge.core.atomic import CONTENT, atomic_write, exclusive, is_mount_point, place_of, recover
from nan_merge.core.errors import UserError
from nan_merge.core.files import write_json

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "workflow")}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write_folder(path, name, removable=lambda folder: True):
    with exclusive(path, atomic.WAIT, removable), atomic_write(path) as part:
        part.mkdir()
        (part / name).write_text(name)


def test_a_published_file_appears_at_the_end_and_replaces_the_old_one(tmp_path):
    target = tmp_path / "new" / "result.txt"
    with atomic_write(target) as part:
        part.write_text("first")
        assert not target.exists()
    with atomic_write(target) as part:
        part.write_text("second")
        assert target.read_text() == "first"
    assert target.read_text() == "second"
    assert names(target.parent) == ["result.txt"]


@pytest.fixture(params=["exchange", "no exchange"])
def exchange(request, monkeypatch):
    """With and without the system call that swaps two names."""
    if request.param == "no exchange":
        monkeypatch.setattr(atomic, "_exchange", lambda *_: False)


def test_a_published_folder_replaces_the_old_one_whole(tmp_path, exchange):
    for name in ("old", "new"):
        write_folder(tmp_path / "folder", name)
    assert names(tmp_path / "folder") == ["new"]
    assert names(tmp_path) == ["folder"]


def test_a_folder_that_holds_anything_is_replaced_only_for_who_knows_it(tmp_path):
    (tmp_path / "empty").mkdir()
    write_folder(tmp_path / "empty", "new", removable=None)
    (tmp_path / "mine/sub").mkdir(parents=True)
    for path in (tmp_path / "mine", tmp_path / "mine/sub/.."):
        with pytest.raises(UserError, match=r"mine.*: is a folder that holds files, which are not replaced"), atomic_write(path):
            pytest.fail("work has begun")
    assert names(tmp_path) == ["empty", "mine"] and names(tmp_path / "mine") == ["sub"]


def test_a_folder_that_is_filled_while_another_is_written_is_kept(tmp_path, exchange, capsys):
    with atomic_write(tmp_path / "out") as part:
        part.mkdir()
        (tmp_path / "out").mkdir()
        (tmp_path / "out/thesis.tex").write_text("mine")
    assert names(tmp_path) == ["out", "out.old"] and names(tmp_path / "out.old") == ["thesis.tex"]
    assert f"kept as {tmp_path / 'out.old'}" in capsys.readouterr().err


@pytest.mark.parametrize("folder", [False, True])
def test_what_breaks_off_leaves_the_old_result_and_no_litter(folder, tmp_path):
    with atomic_write(tmp_path / "result") as part:
        part.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_write(tmp_path / "result") as part:
        if folder:
            part.mkdir()
        (part / "half" if folder else part).write_text("half")
        raise KeyboardInterrupt
    assert names(tmp_path) == ["result"]
    assert (tmp_path / "result").read_text() == "old"
    with pytest.raises(KeyboardInterrupt), atomic_write(tmp_path / "far/away/result"):
        raise KeyboardInterrupt
    assert names(tmp_path) == ["result"], "parents that were made are gone"


def test_a_file_never_replaces_a_folder_nor_a_folder_a_file(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="folder: is a folder that holds files"):
        write_json(tmp_path / "folder", {})
    (tmp_path / "empty").mkdir()
    with pytest.raises(IsADirectoryError):
        write_json(tmp_path / "empty", {})
    (tmp_path / "empty").rmdir()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError):
        write_folder(tmp_path / "file", "x")
    assert (tmp_path / "folder/thesis.tex").read_text() == (tmp_path / "file").read_text() == "mine"
    assert names(tmp_path) == ["file", "folder"]


@pytest.mark.parametrize("path", [".", "..", "sub/..", "../out"])
def test_a_relative_path_is_that_of_where_one_stands(path, tmp_path, monkeypatch):
    inside = tmp_path / "out" / ("sub" if path == ".." else "")
    (tmp_path / "out/sub").mkdir(parents=True)
    monkeypatch.chdir(inside)
    with exclusive(path, removable=lambda folder: True), atomic_write(path) as part:
        assert part.parent == tmp_path / ".out.part"
        part.mkdir()
        (part / "new").touch()
    assert names(tmp_path) == ["out"] and names(tmp_path / "out") == ["new"]


# ---- one writer a target ----------------------------------------------------------------------------------------------


def test_two_threads_of_one_process_never_share_a_target(tmp_path):
    found = []

    def other():
        try:
            with exclusive(tmp_path / "out"):
                found.append("entered")
        except UserError as error:
            found.append(str(error))

    with exclusive(tmp_path / "out"), exclusive(tmp_path / "out"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(found) == 1 and "another process is writing it" in found[0]
    other()
    assert found[1:] == ["entered"] and names(tmp_path) == []


HOLDER = """
import sys, time
from pathlib import Path
from nan_merge.core.atomic import atomic_write
with atomic_write(Path(sys.argv[1])) as part:
    part.mkdir(); (part / "theirs").touch()
    print("holds", flush=True)
    sys.stdin.read()
"""


def holder(path):
    run = [sys.executable, "-c", HOLDER, str(path)]
    process = subprocess.Popen(run, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "holds\n"
    return process


def test_another_process_waits_and_is_refused_and_leaves_the_part_alone(tmp_path, monkeypatch):
    with holder(tmp_path / "out") as process:
        monkeypatch.setattr(atomic, "WAIT", 0.1)
        with pytest.raises(UserError, match=r"out: another process is writing it; wait until"):
            write_folder(tmp_path / "out", "mine")
        assert (tmp_path / ".out.part/new.out/theirs").exists()
        monkeypatch.setattr(atomic, "WAIT", LIMIT)
        timer = threading.Timer(0.2, process.stdin.close)
        timer.start()
        write_folder(tmp_path / "out", "mine")
        assert process.wait(LIMIT) == 0
    assert names(tmp_path) == ["out"] and names(tmp_path / "out") == ["mine"]


def test_a_killed_process_leaves_no_lock(tmp_path):
    with holder(tmp_path / "out") as process:
        process.kill()
        process.wait(LIMIT)
        assert names(tmp_path) == [".out.part"]
        write_folder(tmp_path / "out", "mine")
    assert names(tmp_path) == ["out"]


def test_many_writers_at_once_leave_one_whole_result(tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\nfrom nan_merge.core.atomic import atomic_write, exclusive\n"
        "out = Path(sys.argv[1])\nfor _ in range(20):\n"
        "    with exclusive(out, 60, lambda _: True), atomic_write(out) as part:\n        part.mkdir()\n"
        "        for name in 'abc': (part / name).write_text(sys.argv[2])"
    )
    runs = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "out"), str(n)], env=ENVIRONMENT) for n in range(4)]
    assert [run.wait(LIMIT) for run in runs] == [0, 0, 0, 0]
    assert names(tmp_path) == ["out"] and names(tmp_path / "out") == ["a", "b", "c"]
    assert len({(tmp_path / "out" / name).read_text() for name in "abc"}) == 1


def test_a_folder_in_the_way_that_is_not_ours_stays(tmp_path):
    for content in ({"thesis.tex": b"mine"}, {"lock": b"my lock", "thesis.tex": b"mine"}, {"lock": b"", "thesis.tex": b"mine"}):
        place = place_of(tmp_path / "out")
        place.mkdir()
        for name, text in content.items():
            (place / name).write_bytes(text)
        with pytest.raises(UserError, match=r"\.out\.part: is in the way of .*out, and was not made by this program"):
            write_folder(tmp_path / "out", "mine")
        assert {file.name: file.read_bytes() for file in place.iterdir()} == content
        for file in place.iterdir():
            file.unlink()
        place.rmdir()
    place.write_text("mine")
    with pytest.raises(UserError, match="is in the way"):
        write_folder(tmp_path / "out", "mine")
    assert place.read_text() == "mine"


def test_documents_of_a_folder_that_was_taken_away_are_not_written_elsewhere(tmp_path):
    """A deleted part is not made again for one of its files."""
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "out") as part:
        part.mkdir()
        part.rmdir()
        write_json(part / "provenance.json", {})
    assert names(tmp_path) == []


def test_without_locks_only_a_fresh_place_is_taken(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    write_folder(tmp_path / "out", "first")
    place_of(tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="this file system has no locks that would tell"):
        write_folder(tmp_path / "out", "second")
    assert names(tmp_path / "out") == ["first"]


def test_what_may_not_be_removed_is_kept(tmp_path, exchange, capsys):
    write_folder(tmp_path / "out", "old")
    for _ in range(2):
        write_folder(tmp_path / "out", "new", removable=lambda folder: folder.name == "out")
    assert names(tmp_path) == ["out", "out.old", "out.old-2"] and names(tmp_path / "out.old") == ["old"]
    assert f"kept as {tmp_path / 'out.old'}" in capsys.readouterr().err


def test_a_new_folder_that_cannot_take_its_place_is_kept(tmp_path, monkeypatch):
    def busy(left, right):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    write_folder(tmp_path / "out", "old")
    monkeypatch.setattr(atomic, "_exchange", busy)
    with pytest.raises(UserError, match=r"out: cannot be replaced \(.* busy\); the new one is whole and lies at .*out.new"):
        write_folder(tmp_path / "out", "new")
    assert names(tmp_path) == ["out", "out.new"]
    assert names(tmp_path / "out") == ["old"] and names(tmp_path / "out.new") == ["new"]


@pytest.mark.parametrize("mount", ["mount -t tmpfs none out", "mount --bind out out"])
def test_a_mount_point_is_refused_before_anything_is_written(mount, tmp_path, isolated):
    write_folder(tmp_path / "out", "old")
    assert not is_mount_point(tmp_path / "out") and not is_mount_point(tmp_path / "none")
    code = (
        "from pathlib import Path\nfrom nan_merge.core.atomic import atomic_write\n"
        "from nan_merge.core.command_line import command_line\ndef main():\n"
        "    with atomic_write(Path('out')) as part: raise SystemExit('entered')\ncommand_line(main)"
    )
    shell = [*isolated("--mount"), "sh", "-c", f'{mount} && exec "$@"', "sh", sys.executable, "-c", code]
    done = subprocess.run(shell, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "out: is a mount point, which cannot be replaced whole; choose a folder inside" in done.stderr
    assert names(tmp_path) == ["out"] and names(tmp_path / "out") == ["old"]


# ---- real kills -------------------------------------------------------------------------------------------------------

KILLS = """
import itertools, json, os, shutil, signal, sys
from pathlib import Path
from nan_merge.core import atomic
target, how = Path(sys.argv[1]), sys.argv[2]
if how == "no exchange":
    atomic._exchange = lambda *_: False
STEPS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "open", "shutil.rmtree"}

def write(name):
    with atomic.exclusive(target, removable=lambda folder: True), atomic.atomic_write(target) as part:
        part.mkdir()
        for number in range(3):
            (part / f"{name}{number}").write_text(name)

def state():
    return sorted(path.name[:3] for path in target.iterdir()) if target.exists() else []

def killed_at(number):
    steps = itertools.count(1)
    def hook(event, arguments):
        if event in STEPS and next(steps) == number:
            os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

seen = []
for number in itertools.count(1):
    shutil.rmtree(target, ignore_errors=True)
    write("old")
    child = os.fork()
    if child == 0:
        killed_at(number)
        write("new")
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    before = state()
    atomic.recover(target)
    reader = state()
    with atomic.exclusive(target):
        pass
    seen.append([status, before, reader, state(), sorted(os.listdir(target.parent))])
    if status == 0:
        break
print(json.dumps(seen))
"""


@pytest.mark.parametrize("how", ["exchange", "no exchange"])
def test_a_kill_at_every_step_leaves_the_old_result_or_the_new_one(how, tmp_path):
    """SIGKILL before every operation on the file system; then a reader comes, and then the next writer."""
    run = [sys.executable, "-c", KILLS, str(tmp_path / "out"), how]
    done = subprocess.run(run, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    seen = json.loads(done.stdout)
    old, new = ["old"] * 3, ["new"] * 3
    assert len(seen) > 12 and [status for status, *_ in seen] == [signal.SIGKILL] * (len(seen) - 1) + [0]
    gone = [number for number, (_, before, *_) in enumerate(seen) if before == []]
    assert len(gone) == (how == "no exchange"), "between two renames the old one lies aside, and comes back"
    for _, before, reader, after, left in seen:
        assert before in (old, new, []) and reader == after and after in (old, new) and left == ["out"]
        assert not before or before == after
    found = [after for *_, after, _ in seen]
    assert found == sorted(found, reverse=True), "first old, then new"


def test_a_reader_that_may_not_write_is_told_where_the_old_result_is(tmp_path, isolated):
    with exclusive(tmp_path / "out"):
        (place_of(tmp_path / "out") / "old").mkdir()
        shutil.copytree(place_of(tmp_path / "out"), tmp_path / "left")  # as a killed process leaves it
        (place_of(tmp_path / "out") / "old").rmdir()
    (tmp_path / "left").rename(place_of(tmp_path / "out"))
    shell = f'mount --bind {tmp_path} {tmp_path} && mount -o remount,ro,bind {tmp_path} && exec "$@"'
    code = (
        "from pathlib import Path\nfrom nan_merge.core.atomic import recover\n"
        "from nan_merge.core.command_line import command_line\n"
        f"command_line(lambda: recover(Path({str(tmp_path / 'out')!r})))"
    )
    run = [*isolated("--mount"), "sh", "-c", shell, "sh", sys.executable, "-c", code]
    done = subprocess.run(run, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"out: a killed process has moved it to {tmp_path}/.out.part/old (Read-only file system); move it" in done.stderr
    recover(tmp_path / "out")
    assert names(tmp_path) == ["out"]


def test_a_lock_is_known_again_by_its_content(tmp_path):
    with exclusive(tmp_path / "out"):
        assert (place_of(tmp_path / "out") / "lock").read_bytes() == CONTENT
        time.sleep(0)
