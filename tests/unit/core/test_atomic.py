"""Results appear whole or not at all."""

import os
import subprocess

import pytest

from nan_merge.core.atomic import atomic_write


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


def test_two_writers_of_one_path_leave_each_other_alone(tmp_path):
    """The part of a live process stays; one of a process that ended goes."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    alive, dead = (tmp_path / f".out.{number}.part" for number in (os.getppid(), ended.pid))
    for part in (alive, dead):
        part.mkdir()
    with atomic_write(tmp_path / "out") as mine:
        mine.write_text("mine")
    assert alive.exists() and not dead.exists()
