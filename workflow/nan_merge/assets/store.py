"""Store files whole and verified: resumed after an interruption by any process, received by one process at a time.

A file is received as `<target>.part`, flushed, hashed and renamed. `<target>.stamp` (digest, size, time and inode) spares
later calls the hashing.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nan_merge.assets.http import Remote, receive, size_of
from nan_merge.assets.retry import log
from nan_merge.core.disk import human
from nan_merge.core.errors import UserError
from nan_merge.core.files import read_json, sha256, write_json


def ensure(remote: Remote, target: Path) -> None:
    """Make `target` the file `remote`, whose size and digest are known; no request if it is that already.

    Raises PermanentError for a refusal or a contradicting announcement; UserError for retries without success, content
    that is damaged twice, and a full disk. Bytes received are kept and resumed, unless they are damaged.
    """
    with alone(target, remote.name):
        if is_stored(remote, target):
            return
        if target.exists():
            log(f"{remote.name}: {target} is damaged; fetched again")
            target.unlink()
        part = _beside(target, "part")
        try:
            _receive_verified(remote, part)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            full = f"the disk of {target.parent} is full ({error.strerror}) after {human(size_of(part))}"
            way_out = "free some space and run again to resume"
            raise UserError(f"{remote.name}: {full} of {human(remote.size or 0)}; {way_out}") from None
        part.chmod(0o444)  # its bytes will have a second name
        part.replace(target)
        _write_stamp(remote, target)


def is_stored(remote: Remote, target: Path) -> bool:
    """Return whether `target` is `remote`; a file without a matching stamp is hashed."""
    if not target.is_file() or target.stat().st_size != remote.size:
        return False
    stamp = _beside(target, "stamp")
    if stamp.is_file() and read_json(stamp) == _state(remote, target):
        return True
    if _digest(target, remote) != remote.digest:
        return False
    _write_stamp(remote, target)
    return True


def missing(remote: Remote, target: Path) -> int:
    """Return the number of bytes that have yet to be fetched of a file of known size, judged by sizes alone."""
    size = remote.size or 0
    return 0 if size_of(target) == size else size - min(size_of(_beside(target, "part")), size)


def place(file: Path, target: Path, symbolic: bool = False) -> None:
    """Give `target` the content of a stored file by a hard or a relative symbolic link; where there are no links, by a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.symlink(os.path.relpath(file, target.parent), target) if symbolic else os.link(file, target)
    except FileExistsError:
        pass
    except OSError:
        shutil.copyfile(file, target)


def _receive_verified(remote: Remote, part: Path) -> None:
    for _ in range(2):
        receive(remote, part)
        digest = _digest(part, remote)
        if digest == remote.digest:
            return
        part.unlink()
        log(f"{remote.name}: received damaged (digest {digest}) and deleted")
    raise UserError(
        f"{remote.name}: received damaged twice: digest: expected {remote.digest}, found {digest}; nothing was kept. Check"
        f" proxies and mirrors on the way to {urlsplit(remote.url).hostname}"
    )


def _digest(file: Path, remote: Remote) -> str:
    """Return the digest of a file in the kind that `remote` has: SHA-256 or git blob id."""
    if len(remote.digest or "") == 64:
        return sha256(file)
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def alone(target: Path, what: str) -> Iterator[None]:
    """Hold the lock `<target>.lock`, which is not removed; wait, with a message, while another process holds it.

    A folder without write access, such as a shared cache, needs no lock.
    """
    from filelock import FileLock, Timeout

    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(_beside(target, "lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        log(f"{what}: waiting for another process that fetches it")
        lock.acquire()
    except OSError:
        if os.access(target.parent, os.W_OK):
            raise
    try:
        yield
    finally:
        lock.release()


def _beside(target: Path, kind: str) -> Path:
    return target.with_name(f"{target.name}.{kind}")


def _write_stamp(remote: Remote, target: Path) -> None:
    with suppress(OSError):  # no write access or a full disk: hashed again next time
        write_json(_beside(target, "stamp"), _state(remote, target))


def _state(remote: Remote, target: Path) -> dict[str, Any]:
    status = target.stat()
    return {"digest": remote.digest, "size": status.st_size, "mtime_ns": status.st_mtime_ns, "inode": status.st_ino}
