"""Files that several threads read and write at offsets, of which only so many are open at once as the system allows."""

from __future__ import annotations

import os
import resource
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from nan_merge.core.errors import UserError, about


class Stamp(NamedTuple):
    """What tells whether a file is still the one that it was."""

    size: int
    modified: int  # nanoseconds
    inode: int
    device: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """Return the stamp of a status."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev)

    def difference(self, other: Stamp) -> str:
        """Say what differs in a later stamp, empty for none."""
        if self[2:] != other[2:]:
            return "it is another file now"
        if self.size != other.size:
            return f"its size was {self.size} bytes and is {other.size}"
        return "" if self == other else "its time of modification is another"


class PooledFile:
    """A file that is opened at its first use, and closed and opened again where many others are in use.

    A `stamp`, if given, is compared whenever the file is opened.
    """

    def __init__(self, path: Path, flags: int = os.O_RDONLY, stamp: Stamp | None = None) -> None:
        self.path, self.flags, self.stamp = path, flags, stamp
        self._handle, self._users = -1, 0

    @contextmanager
    def opened(self) -> Iterator[int]:
        """Yield the open file; errors of the block name its path. Raises UserError for a file that is another one now."""
        with about(self.path):
            with _LOCK:
                if self._handle < 0:
                    self._open()
                _OPEN[self] = _OPEN.pop(self, None)  # the latest is the last
                self._users += 1
            try:
                yield self._handle
            finally:
                with _LOCK:
                    self._users -= 1

    def _open(self) -> None:
        for other in [file for file in _OPEN if not file._users][: max(0, len(_OPEN) + 1 - limit())]:
            other._close()
        self._handle = os.open(self.path, self.flags)
        try:
            self.check(self._handle)
        except BaseException:
            self._close()
            raise

    def check(self, handle: int) -> None:
        """Raise a UserError if the open file is not as its stamp says."""
        difference = self.stamp and self.stamp.difference(Stamp.of(os.fstat(handle)))
        if difference:
            raise UserError(f"{self.path}: was changed while it was used ({difference}); leave it alone and run again")

    def close(self) -> None:
        """Close the file if it is open; it is opened again at its next use."""
        with _LOCK:
            self._close()

    def _close(self) -> None:
        _OPEN.pop(self, None)
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    def __del__(self) -> None:
        """Close the file; nobody uses it any more."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)


_LOCK = threading.RLock()
_OPEN: weakref.WeakKeyDictionary[PooledFile, None] = weakref.WeakKeyDictionary()  # the file used last is the last


def limit() -> int:
    """Return the number of files that are open at once: half of what the system allows, at most 512."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 512 if soft == resource.RLIM_INFINITY else max(8, min(512, soft // 2))
