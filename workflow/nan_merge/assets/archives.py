"""Extract named members of zip, tar and Debian archives, wheels and source distributions among them.

No content of an archive is installed or run, links are not followed, and no member is written outside its folder.
"""

from __future__ import annotations

import errno
import fnmatch
import functools
import io
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from nan_merge.core.errors import UserError
from nan_merge.core.escape import one_line

RATIO, SMALL = 1000, 1 << 30  # an archive unpacks to at most RATIO times its size, or SMALL bytes
MOST = 3_000_000  # members
HEADERS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
LONGEST_HEADER = 1 << 20  # bytes of names and attributes before a member, which are read at once
ODD_NAMES = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)
REMEDY = "it is damaged, encrypted or of an unknown kind; fetch it again, or correct `members:` in config/assets.yaml"


class Selection:
    """The files of an asset spec: those below `root` that match one of the patterns `members` (default: all)."""

    def __init__(self, spec: Mapping[str, Any], where: str) -> None:
        """Read `root` and `members` of an entry of config/assets.yaml; every message begins with `where`."""
        self.root, self.where = PurePosixPath(spec.get("root", ".")), where
        self.patterns: list[str] = spec.get("members", ["*"])
        self._unmatched = set(self.patterns)

    def name(self, member: str) -> str | None:
        """Return the name of a member relative to `root`, None if it is not selected."""
        path = PurePosixPath(member.removeprefix("./"))
        if not path.is_relative_to(self.root):
            return None
        name = str(path.relative_to(self.root))
        matching = {pattern for pattern in self.patterns if fnmatch.fnmatchcase(name, pattern)}
        if not matching:
            return None
        if ".." in path.parts or path.is_absolute():
            raise UserError(f"{self.where}: member {member!r} has a path outside its folder; not extracted")
        if one_line(member) != member:
            raise UserError(f"{self.where}: member {member!r} has control characters in its name; leave it out by `members:`")
        self._unmatched -= matching
        return name

    def check(self, correction: str = "correct `root:` or `members:` in config/assets.yaml") -> None:
        """Raise a UserError if a pattern has matched none of the members so far."""
        if self._unmatched:
            raise UserError(f"{self.where} has no member like {sorted(self._unmatched)} below {str(self.root)!r}; {correction}")


def extract(asset: str, spec: Mapping[str, Any], archive: Path, folder: Path) -> list[str]:
    """Extract the members that match `spec["members"]` below `spec["root"]` and return their names, sorted.

    `spec["inner"]` names an archive inside the archive. With `unpack: false`, or if it is no archive, the file is copied.
    Raises UserError for a pattern without a match and for a member with a path outside the folder.
    """
    selection = Selection(spec, f"asset '{asset}': {archive.name}")
    names: list[str] = []
    with _explained(selection.where):
        room = max(SMALL, RATIO * archive.stat().st_size)
        members = _members(archive, spec.get("inner")) if spec.get("unpack", True) else _whole(archive)
        for number, (member, read) in enumerate(members):
            if number == MOST:
                raise ValueError(f"it has more than {MOST:,} members")
            name = selection.name(member)
            if name is not None:
                with _explained(f"{selection.where}: member {member!r}"):
                    room -= _write(read, folder / name, room)
                names.append(name)
    selection.check()
    return sorted(set(names))


def _write(read: Callable[[], IO[bytes]], file: Path, room: int) -> int:
    """Write a member to a file and return its size; ValueError if that is more than `room` bytes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with read() as content, open(file, "wb") as target:
        while block := content.read(1 << 20):
            target.write(block)
            if target.tell() > room:
                raise ValueError(f"it unpacks to more than {RATIO} times the size of the archive")
        return target.tell()


@contextmanager
def _explained(where: str) -> Iterator[None]:
    """Turn the errors of the readers of archives, and of names that cannot be files, into a UserError."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        if error.errno is not None and error.errno not in ODD_NAMES:
            raise
        raise UserError(f"{where}: cannot be unpacked ({error.strerror or error}); {REMEDY}") from None
    except Exception as error:  # zipfile, tarfile, zlib, lzma and struct have one each
        raise UserError(f"{where}: cannot be unpacked ({str(error) or type(error).__name__}); {REMEDY}") from None


Members = Iterator[tuple[str, Callable[[], IO[bytes]]]]


def _members(archive: Path, inner: str | None) -> Members:
    """Yield (name, reader) of the regular files of a zip, tar or deb archive, or of the archive `inner` in it."""
    if inner is not None:
        for name, read in _members(archive, None):
            if name.removeprefix("./") == inner:
                try:
                    nested = tarfile.open(fileobj=io.BytesIO(read().read(SMALL)), tarinfo=_Member)  # noqa: SIM115
                except tarfile.ReadError:
                    raise UserError(f"{inner!r} in {archive.name} is no tar archive; correct `inner:`") from None
                yield from _tar(nested)
                return
        raise UserError(f"{archive.name} has no inner archive {inner!r}; correct `inner:` in config/assets.yaml")
    if archive.suffix == ".deb":
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE) as unpacker:
            yield from _tar(tarfile.open(fileobj=unpacker.stdout, mode="r|", tarinfo=_Member))  # noqa: SIM115
    elif zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as bundle:
            for info in bundle.infolist():
                if not info.is_dir():
                    yield info.filename, functools.partial(bundle.open, info)
    else:
        try:
            members = _tar(tarfile.open(archive, tarinfo=_Member))  # noqa: SIM115
        except tarfile.TarError:
            members = _whole(archive)
        yield from members


class _Member(tarfile.TarInfo):
    """A member of a tar archive whose header claims no more than it can need: the library would read all of it at once."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> Any:
        """Read the 512 bytes of a header."""
        info = super().frombuf(buf, encoding, errors)
        if info.type in HEADERS and info.size > LONGEST_HEADER:
            raise ValueError(f"a header of {info.size:,} bytes")  # no TarError, by which another kind of file is told
        return info


def _whole(archive: Path) -> Members:
    yield archive.name, lambda: archive.open("rb")


def _tar(bundle: tarfile.TarFile) -> Members:
    with bundle:
        for info in bundle:
            if info.isfile():
                yield info.name, cast(Callable[[], IO[bytes]], functools.partial(bundle.extractfile, info))
        if isinstance(bundle.fileobj, io.BufferedIOBase) and not isinstance(bundle.fileobj, io.BufferedReader):
            for _ in range(SMALL >> 20):  # the end of a compressed file holds its checksum
                if not bundle.fileobj.read(1 << 20):
                    break
