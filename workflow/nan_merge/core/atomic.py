"""Write a file or a folder whole or not at all, one process at a time.

While a target `out` is written, the hidden folder `.out.part` lies beside it. It holds `lock`, which the kernel locks as long as
the process lives, `new.out`, which is being written, and at the end `old`, which it replaces:

    new.out and out are exchanged in one step, and old is removed;
    on a file system without that step: out -> old, new.out -> out, and old is removed.

A killed process leaves the old target or the new one. Where it left only `old`, the next writer or reader puts it back first.
Nothing outside `.out.part` is deleted, and `.out.part` only if its lock is one of this module. A folder that holds anything is
replaced only for a caller that knows what it is.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import itertools
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from nan_merge.core.errors import UserError, tell

LOCK, OLD = "lock", "old"
CONTENT = b"NAN-Merge writes here; this folder is removed at the end.\n"  # of a lock
WAIT = 10.0  # seconds that a writer waits for another one of the same target
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.EBADF)  # of flock, where a file system has none
NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)  # of renameat2


@dataclass(frozen=True)
class _Hold:
    """A target that a thread of this process writes."""

    thread: int
    place: Path
    removable: Callable[[Path], bool]


_HELD: dict[Path, _Hold] = {}


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path for `path` (a file or a folder), which replaces it when the block ends without an error.

    Everything is flushed to disk before: after a crash the old result, the new one or none exists, never a part of one.
    After an error nothing of the new one is kept. Inside a folder that is written this way itself, `path` is yielded.

    Raises UserError for a mount point, which cannot be replaced, for a folder that holds anything, unless `exclusive` was told
    that it is removable, and where another process goes on writing the same path.
    """
    target = resolved(path)
    if any(hold.place in target.parents for hold in tuple(_HELD.values())):
        yield target
        return
    with exclusive(target, WAIT):
        if target.is_dir() and not _HELD[target].removable(target):
            raise UserError(
                f"{path}: is a folder that holds files, which are not replaced; move it elsewhere, or choose another place"
            )
        new = place_of(target) / f"new.{target.name}"
        yield new
        for file in [new, *new.rglob("*")] if new.is_dir() else [new]:
            if not file.is_symlink():
                _flush(file)
        _put(new, target)


@contextmanager
def exclusive(path: Path, wait: float = 0.0, removable: Callable[[Path], bool] | None = None) -> Iterator[None]:
    """Hold a target for this thread: no other process writes it meanwhile; missing parents of it are made.

    A folder is replaced only if `removable` says so (None: if it is empty). If it says so no longer when the folder has been
    replaced, the old one is kept beside it.
    Raises UserError for a mount point, and if another process, or another thread of this one, still holds the target after
    `wait` seconds.
    """
    target = resolved(path)
    held = _HELD.get(target)
    if held is not None and held.thread == threading.get_ident():
        yield
        return
    if is_mount_point(target):
        raise UserError(f"{path}: is a mount point, which cannot be replaced whole; choose a folder inside it")
    place, made = place_of(target), [folder for folder in target.parents if not folder.exists()]
    try:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), error.filename) from None
        handle = _acquire(place, path, wait)
        try:
            restore(place)
            _clear(place)
            _HELD[target] = _Hold(threading.get_ident(), place, removable or is_empty)
            try:
                yield
            finally:
                restore(place)
                _keep(place, _HELD.pop(target))
        finally:
            _release(place, handle)
    except BaseException:
        for folder in made:
            with suppress(OSError):  # not empty
                folder.rmdir()
        raise


def recover(path: Path) -> None:
    """Put a target back for a reader where a killed process has moved it aside; wait for a process that is replacing it.

    Raises UserError, with the place of the target, where this user may not put it back.
    """
    target = resolved(path)
    aside = place_of(target) / OLD
    if os.path.lexists(target) or not os.path.lexists(aside):
        return
    try:
        with exclusive(target, WAIT):
            pass
    except OSError as error:
        raise UserError(f"{path}: a killed process has moved it to {aside} ({error.strerror}); move it back by hand") from None


def is_empty(folder: Path) -> bool:
    """Return whether a folder holds nothing."""
    return not any(folder.iterdir())


def resolved(path: Path) -> Path:
    """Return an absolute path without links and `..`, but for a link at its end."""
    path = Path(path)
    return path.resolve() if path.name in ("", "..") else path.parent.resolve() / path.name


def place_of(target: Path) -> Path:
    """Return the folder in which a target is written."""
    return target.with_name(f".{target.name}.part")


def _target_of(place: Path) -> Path:
    return place.with_name(place.name[1:].removesuffix(".part"))


def restore(place: Path) -> None:
    """Put an old target back where a killed process has moved it aside and put nothing in its place."""
    target = _target_of(place)
    if os.path.lexists(place / OLD) and not os.path.lexists(target):
        (place / OLD).rename(target)


def is_mount_point(path: Path) -> bool:
    """Return whether a folder is a mount point, also one of the same file system (a bind mount of a container)."""
    if not path.is_dir() or path.is_symlink():
        return False
    return os.path.ismount(path) or _mount(path) != _mount(path.parent)


def _mount(path: Path) -> str | None:
    """Return the number of the mount that a folder is on, None where the kernel does not say."""
    handle = os.open(path, os.O_PATH)
    try:
        lines = Path(f"/proc/self/fdinfo/{handle}").read_text().splitlines()
    except OSError:
        return None
    finally:
        os.close(handle)
    return next((line for line in lines if line.startswith("mnt_id:")), None)


def _acquire(place: Path, path: Path, wait: float) -> int:
    """Make the folder and lock its lock; return the open file. Raises UserError if it is held or none of ours."""
    end = time.monotonic() + wait
    while True:
        fresh = False
        with suppress(FileExistsError):
            place.mkdir()
            fresh = True
        with suppress(FileNotFoundError):  # it has just been removed by its owner
            if not stat.S_ISDIR(os.lstat(place).st_mode):
                raise UserError(f"{place}: is in the way of {path}, which is written in a folder of that name; move it elsewhere")
            found = set(os.listdir(place))
            if found and (LOCK not in found or not stat.S_ISREG(os.lstat(place / LOCK).st_mode)):
                raise _foreign(place, path)
            handle = os.open(place / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            try:
                if _locked(handle, fresh, place, path) and os.path.samestat(os.fstat(handle), os.stat(place / LOCK)):
                    content = os.pread(handle, 2 * len(CONTENT), 0)
                    if content != CONTENT and not (CONTENT.startswith(content) and found <= {LOCK}):
                        raise _foreign(place, path)
                    os.pwrite(handle, CONTENT, 0)
                    return handle
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)
        if time.monotonic() > end:
            raise UserError(f"{path}: another process is writing it; wait until that one has ended, or choose another place")
        time.sleep(0.02)


def _foreign(place: Path, path: Path) -> UserError:
    return UserError(f"{place}: is in the way of {path}, and was not made by this program; move it elsewhere")


def _locked(handle: int, fresh: bool, place: Path, path: Path) -> bool:
    """Lock an open file and return whether it could be; where there are no locks, only a fresh folder is taken."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        if not fresh:
            raise UserError(
                f"{path}: another process may be writing it, and this file system has no locks that would tell; if there is"
                f" none, move {place} elsewhere (`{OLD}` in it, if any, is what was there before)"
            ) from None
    return True


def _release(place: Path, handle: int) -> None:
    """Remove the folder and its lock, unless something is left in it."""
    try:
        if os.listdir(place) == [LOCK]:
            (place / LOCK).unlink()
    finally:
        os.close(handle)
    with suppress(OSError):  # another process has begun
        place.rmdir()


def _clear(place: Path) -> None:
    """Remove what a writer has left, but for the lock."""
    for entry in place.iterdir():
        if entry.name != LOCK:
            _remove(entry)


def _keep(place: Path, hold: _Hold) -> None:
    """Remove what is left, but keep an old target that may not be removed, or that cannot be."""
    old = place / OLD
    if old.exists() and not hold.removable(old):
        kept = _beside(place, "old")
        old.rename(kept)
        tell(f"note: what was replaced had changed meanwhile; it is kept as {kept}")
    try:
        _clear(place)
    except OSError as error:
        tell(f"note: {place} could not be removed ({error}); remove it by hand")


def _beside(place: Path, kind: str) -> Path:
    """Return an unused name beside a target: `out.old`, `out.old-2`, ..."""
    stem = f"{_target_of(place).name}.{kind}"
    names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    return next(path for path in map(place.with_name, names) if not os.path.lexists(path))


def _put(new: Path, target: Path) -> None:
    """Put the new target in place of the old one, if any, which becomes `old`."""
    place = new.parent
    if not target.is_dir() or target.is_symlink():
        new.replace(target)
    elif not new.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    else:
        try:
            if _exchange(new, target):
                new.rename(place / OLD)
            else:
                target.rename(place / OLD)
                new.rename(target)
        except OSError as error:
            restore(place)
            kept = _beside(place, "new")
            new.rename(kept)
            raise UserError(f"{target}: cannot be replaced ({error.strerror}); the new one is whole and lies at {kept}") from None
    _flush(target.parent)


def _exchange(left: Path, right: Path) -> bool:
    """Swap two names in one step (renameat2, Linux); return False where the file system or the system cannot."""
    working_folder, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    if call(working_folder, os.fsencode(left), working_folder, os.fsencode(right), swap) == 0:
        return True
    if ctypes.get_errno() in NO_EXCHANGE:
        return False
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(right))


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
