"""Fetch files by their SHA-256: whole and verified, resumed where another process broke off, by one process at a time. No torch.

A file grows as `<target>.part`, is flushed, hashed from its first byte and renamed; a stamp beside it (size, time and inode
at that moment) lets later calls trust it without reading it.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nan_merge.assets.http import Remote, receive, size_of
from nan_merge.assets.retry import log
from nan_merge.core.digests import sha256
from nan_merge.core.disk import human
from nan_merge.core.errors import UserError
from nan_merge.core.files import read_json, write_json


def ensure(remote: Remote, target: Path) -> None:
    """Make `target` the file `remote`, whose size and SHA-256 are known; no request if it is that already.

    Raises PermanentError for what cannot work (401, 403, 404, an announcement that contradicts what is expected), UserError for
    a server that stays in trouble, content that is damaged twice, and a full disk. What has arrived is kept and resumed.
    """
    with alone(target, remote.what), _room(remote, target):
        if have(remote, target):
            return
        if target.exists():
            log(f"{remote.what}: {target} is damaged; it is fetched anew")
            target.unlink()
        part = _beside(target, "part")
        _receive_verified(remote, part)
        part.chmod(0o444)  # a second name of the same bytes will lie in the folder of an asset
        part.replace(target)
        write_json(_beside(target, "stamp"), _state(remote, target))


def have(remote: Remote, target: Path) -> bool:
    """Say whether `target` is `remote`, without a request; a file that changed since it was verified is read again."""
    if not target.is_file() or target.stat().st_size != remote.size:
        return False
    stamp = _beside(target, "stamp")
    if stamp.is_file() and read_json(stamp) == _state(remote, target):
        return True
    if sha256(target) != remote.sha256:
        return False
    write_json(stamp, _state(remote, target))
    return True


def missing(remote: Remote, target: Path) -> int:
    """Return how many bytes of a file of known size have yet to be fetched, judged by sizes alone."""
    size = remote.size or 0
    return 0 if size_of(target) == size else size - min(size_of(_beside(target, "part")), size)


def place(file: Path, target: Path) -> None:
    """Give `target` the content of a downloaded file: by a hard link, which takes no room, or else by a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, target)
    except OSError:  # another disk, or a file system without hard links
        shutil.copyfile(file, target)


def _receive_verified(remote: Remote, part: Path) -> None:
    for attempt in ("first", "last"):
        receive(remote, part)
        found = sha256(part)
        if found == remote.sha256:
            return
        part.unlink()
        if attempt == "first":
            log(f"{remote.what}: arrived damaged (sha256 {found}); once more from the first byte")
    raise UserError(
        f"{remote.what}: arrived damaged twice: sha256: expected {remote.sha256}, found {found}; nothing was kept. A proxy"
        f" or mirror ({urlsplit(remote.url).hostname}) may change what it passes on"
    )


@contextmanager
def alone(target: Path, what: str) -> Iterator[None]:
    """Hold the lock `<target>.lock`, which stays; say so if another process holds it, and wait."""
    from filelock import FileLock, Timeout

    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(_beside(target, "lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        log(f"{what}: another process is fetching it; waiting")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _room(remote: Remote, target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        arrived = human(size_of(_beside(target, "part")))
        raise UserError(
            f"{remote.what}: the disk of {target.parent} is full ({error.strerror}) after {arrived} of"
            f" {human(remote.size or 0)}; free some and run again, it goes on there"
        ) from None


def _beside(target: Path, kind: str) -> Path:
    return target.with_name(f"{target.name}.{kind}")


def _state(remote: Remote, target: Path) -> dict[str, Any]:
    there = target.stat()
    return {"sha256": remote.sha256, "size": there.st_size, "mtime_ns": there.st_mtime_ns, "inode": there.st_ino}
