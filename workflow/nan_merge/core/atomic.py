"""Write a file or a folder whole or not at all."""

from __future__ import annotations

import ctypes
import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` (a file or a folder) and rename it to `path` when the block ends without an error.

    Everything is flushed to disk before the rename: after a crash the old result, the new one or none exists, never a
    part of one. After an error the temporary path is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.[0-9]*.part"):
        if not _is_alive(int(leftover.suffixes[-2][1:])):  # of a killed process
            _remove(leftover)
    try:
        yield part
        for file in [part, *part.rglob("*")] if part.is_dir() else [part]:
            if not file.is_symlink():
                _flush(file)
        if path.is_dir() and not path.is_symlink():
            _exchange(part, path)  # the old folder now has the temporary name and is removed below
        else:
            part.replace(path)
        _flush(path.parent)
    finally:
        _remove(part)


def _exchange(left: Path, right: Path) -> None:
    """Swap two names in one step (renameat2, Linux); on a file system without it, remove `right` and rename `left`."""
    working_folder, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None or call(working_folder, os.fsencode(left), working_folder, os.fsencode(right), swap) != 0:
        shutil.rmtree(right)
        left.replace(right)


def _is_alive(process: int) -> bool:
    """Return whether another process of this machine has the number."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
