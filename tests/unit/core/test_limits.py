"""Limits of the system: files, threads, disks and kernels; each is passed by or named with a way out."""

import errno
import os
import resource
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from models import ROOT
from project import LIMIT

from nan_merge.core import handles
from nan_merge.core.command_line import command_line
from nan_merge.core.errors import UserError, about, as_user_errors, explained
from nan_merge.core.handles import PooledFile, Stamp
from nan_merge.core.parallel import parallel_map
from nan_merge.methods.context import TensorContext
from nan_merge.methods.recipe import bind

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "workflow")}
KINDS = {
    "EIO": "the disk or its connection fails",
    "ESTALE": "mount it again",
    "EFBIG": "choose another folder or raise the limit",
    "ENAMETOOLONG": "shorten the name",
    "ENOTDIR": "expected a folder, found a file",
    "EISDIR": "expected a file, found a folder",
    "EMFILE": "raise the limit (ulimit -n)",
    "ENOSPC": "free some space",
    "EDQUOT": "raise the quota",
    "EACCES": "change the permissions",
    "EROFS": "choose another folder",
    "EBUSY": "choose another folder",
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_of_the_system_has_its_file_and_a_way_out(kind, capsys):
    def fails():
        with about("/far/model.safetensors"):
            raise OSError(getattr(errno, kind), os.strerror(getattr(errno, kind)))

    with pytest.raises(SystemExit) as stop:
        command_line(fails)
    said = capsys.readouterr().err
    assert stop.value.code == 1 and said.count("\n") == 1
    assert said.startswith(f"error: {os.strerror(getattr(errno, kind))} (/far/model.safetensors): ") and KINDS[kind] in said


@pytest.mark.parametrize("error", [MemoryError("cannot allocate 9 TB"), MemoryError(), RuntimeError("can't start new thread")])
def test_memory_and_threads_that_run_out_are_errors_with_a_way_out(error):
    with pytest.raises(UserError, match="use fewer --threads"), as_user_errors():
        raise error


def test_errors_of_the_program_keep_their_traceback():
    assert explained(RuntimeError("a bug")) is explained(BrokenPipeError(32, "Broken pipe")) is explained(OSError("?")) is None
    with pytest.raises(RuntimeError, match="a bug"), as_user_errors():
        raise RuntimeError("a bug")


# ---- open files -------------------------------------------------------------------------------------------------------


def opened(paths):
    """Return the paths among `paths` that this process has open."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            continue
    return found & set(map(str, paths))


def test_no_more_files_are_open_than_allowed_and_all_can_be_read(tmp_path, monkeypatch):
    monkeypatch.setattr(handles, "limit", lambda: 4)
    files = [PooledFile(tmp_path / f"{number:02}") for number in range(20)]
    for file in files:
        file.path.write_text(file.path.name)

    def read(start):
        for file in (files[start:] + files[:start]) * 5:
            with file.opened() as handle:
                assert os.pread(handle, 9, 0) == file.path.name.encode()

    threads = [threading.Thread(target=read, args=(3 * number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    read(0)
    assert len(opened(file.path for file in files)) == 4
    files.clear()
    del file
    assert not opened(tmp_path.iterdir())


def test_a_file_that_is_opened_again_must_be_the_same(tmp_path):
    path = tmp_path / "file"
    path.write_text("some")
    file = PooledFile(path, stamp=Stamp.of(path.stat()))
    with file.opened():
        pass
    file.close()
    (tmp_path / "other").write_text("same")
    (tmp_path / "other").replace(path)
    with pytest.raises(UserError, match=r"file: was changed while it was used \(it is another file now\)"), file.opened():
        pass


def test_the_limit_is_that_of_the_process():
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert 8 <= handles.limit() <= max(8, min(512, soft // 2))


# ---- threads ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def interruptible():
    """Let SIGINT raise KeyboardInterrupt, which is ignored in what a shell started in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("seconds", "said"), [(2.5, True), (0.001, False)])
def test_an_interruption_says_what_it_waits_for_if_that_takes_long(seconds, said, capsys, interruptible):
    ended = []

    def work(item):
        if item == 50:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # the thread that waits
        time.sleep(seconds if item == 50 else 0.001)
        ended.append(item)
        return item

    with pytest.raises(KeyboardInterrupt):
        parallel_map(range(1, 10_000), lambda: work, 2)
    assert 50 in ended and len(ended) < 9_999
    assert ("interrupted: waiting for the end of the computations" in capsys.readouterr().err) is said


def test_long_work_ends_between_its_steps_at_an_interruption(capsys, interruptible):
    wudi, started = bind({"combine": {"wudi": {"steps": 10**9}}}), []

    def work(item):
        started.append(item)
        if len(started) == 2:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        taus = np.random.default_rng(item).standard_normal((2, 8, 8))
        return wudi.merge(taus, [1.0, 1.0], TensorContext("w"))

    with pytest.raises(KeyboardInterrupt):
        parallel_map(range(9), lambda: work, 2)
    assert len(started) == 2 and capsys.readouterr().err == ""


@pytest.mark.parametrize("allowed", [0, 1, 3])
def test_work_is_done_by_as_many_threads_as_there_can_be(allowed, monkeypatch):
    start, started = threading.Thread.start, []

    def limited(thread):
        if len(started) == allowed:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    assert parallel_map(range(50), lambda: lambda item: item * item, 8) == [item * item for item in range(50)]
    assert len(started) == allowed


# ---- kernels ----------------------------------------------------------------------------------------------------------

KERNEL = """
import numpy as np
from nan_merge.core import kernels
tau = np.array([1.0, -3.0, 2.0])
kernels.trim(tau, 2.5)
assert tau.tolist() == [0.0, -3.0, 0.0]
"""


def test_kernels_are_compiled_where_nothing_can_be_kept(tmp_path, isolated):
    """A read-only installation and a HOME that cannot be written: no folder for a cache."""
    folder = tmp_path / "library/nan_merge/core"
    folder.mkdir(parents=True)
    for file in ("__init__.py", "core/__init__.py", "core/kernels.py"):
        (tmp_path / "library/nan_merge" / file).write_text((ROOT / "workflow/nan_merge" / file).read_text())
    shell = f'mount --bind {tmp_path} {tmp_path} && mount -o remount,ro,bind {tmp_path} && exec "$@"'
    run = [*isolated("--mount"), "sh", "-c", shell, "sh", sys.executable, "-c", KERNEL]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "library"), "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(run, env=environment, capture_output=True, text=True, check=False, timeout=LIMIT)
    assert done.returncode == 0, done.stderr


def test_kernels_are_compiled_where_the_cache_has_no_room(tmp_path, isolated):
    (tmp_path / "cache").mkdir()
    fill = "head -c 1m /dev/zero > fill 2>/dev/null; exec"
    shell = f'mount -t tmpfs -o size=64k none {tmp_path / "cache"} && cd {tmp_path / "cache"}; {fill} "$@"'
    run = [*isolated("--mount"), "sh", "-c", shell, "sh", sys.executable, "-c", KERNEL]
    environment = {**ENVIRONMENT, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(run, env=environment, capture_output=True, text=True, check=False, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
