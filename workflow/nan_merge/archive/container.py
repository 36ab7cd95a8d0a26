"""The zip file: the same bytes for the same files, and a reader that no archive can harm."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from nan_merge.assets.archives import SMALL
from nan_merge.core.atomic import atomic_write
from nan_merge.core.disk import check_space, human
from nan_merge.core.errors import UserError, about
from nan_merge.core.escape import one_line
from nan_merge.core.files import canonical
from nan_merge.core.text import parse_json

MANIFEST = "manifest.json"
WHOLE = "whole/manifest.json"  # in an archive of tables, the manifest of the whole one
FORMAT = 1  # of the manifest and of the places of files
RATIO = 100  # an archive unpacks to at most RATIO times its size, or SMALL bytes
LARGEST_MANIFEST = 1 << 28  # bytes
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time of a zip: that of every member, so that the bytes do not depend on the clock
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError)

Content = Path | bytes


def write(output: Path, about_run: Mapping[str, Any], members: Mapping[str, Content]) -> None:
    """Write members, files or bytes, and a manifest with their sizes and SHA-256 as a zip, whole or not at all.

    The bytes depend on the members, on `about_run`, the further keys of the manifest, and on the version of zlib alone.
    """
    check_space(output.parent, sum(map(_size, members.values())) // 2, "the archive", "free some space, or choose another folder")
    with about(output), atomic_write(output) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in [(MANIFEST, manifest(about_run, members)), *sorted(members.items())]:
            info = zipfile.ZipInfo(name, EPOCH)
            info.compress_type, info.create_system, info.external_attr = zipfile.ZIP_DEFLATED, 3, 0o644 << 16
            info.file_size = _size(content)
            with bundle.open(info, "w") as target:
                if isinstance(content, bytes):
                    target.write(content)
                else:
                    with open(content, "rb") as source:
                        shutil.copyfileobj(source, target, 1 << 20)


def manifest(about_run: Mapping[str, Any], members: Mapping[str, Content]) -> bytes:
    """Return the manifest: `about_run`, the format, and size and SHA-256 of every member."""
    files = {name: {"sha256": _sha256(content), "size": _size(content)} for name, content in sorted(members.items())}
    return canonical({**about_run, "format": FORMAT, "files": files}).replace('},"', '},\n"').encode()


def _size(content: Content) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _sha256(content: Content) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with open(content, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Archive:
    """An archive that was opened: its manifest, and the files that are in it."""

    def __init__(self, file: Path, bundle: zipfile.ZipFile) -> None:
        """Read the manifest; UserError for a zip that is none of this program, of another format, or that would do harm."""
        self.file, self._bundle = file, bundle
        infos = bundle.infolist()
        self._infos = {info.filename: info for info in infos}
        for info in infos:
            _refuse_harmful(file, info)
        if len(self._infos) < len(infos):
            raise UserError(f"{file}: holds two files of one name; it was not written by nan-merge archive")
        if (total := sum(info.file_size for info in infos)) > max(SMALL, RATIO * file.stat().st_size):
            raise UserError(f"{file}: would unpack to {human(total)}, more than {RATIO} times its size; not unpacked")
        self.manifest = self._manifest()
        self.files: dict[str, dict[str, Any]] = self.manifest["files"]

    def _manifest(self) -> dict[str, Any]:
        if MANIFEST not in self._infos or self._infos[MANIFEST].file_size > LARGEST_MANIFEST:
            raise UserError(f"{self.file}: has no {MANIFEST}; expected a file that nan-merge archive has written")
        found = parse_json(self.read(MANIFEST).decode("utf-8", "replace"), f"{self.file}: {MANIFEST}")
        form = found.get("format") if isinstance(found, dict) else None
        if form != FORMAT:
            raise UserError(
                f"{self.file}: has format {form!r}, this version reads {FORMAT}; take the version of nan-merge that wrote it"
            )
        files = found.get("files")
        if not isinstance(files, dict) or not all(isinstance(e, dict) and {"sha256", "size"} <= e.keys() for e in files.values()):
            raise UserError(f"{self.file}: {MANIFEST}: expected `files` with sha256 and size of each; the archive is damaged")
        versions, partial = found.get("versions", {}), found.get("partial", [])
        texts = {
            **{key: [found.get(key, "")] for key in ("program", "date", "code", "commit")},
            "versions": [*versions.values()] if isinstance(versions, dict) else [None],
            "partial": partial if isinstance(partial, list) else [None],
        }
        if wrong := [key for key, values in texts.items() if not all(isinstance(value, str) for value in values)]:
            kinds = "texts, in `versions` by package, in `partial` as a list"
            raise UserError(
                f"{self.file}: {MANIFEST}: expected {kinds}; found something else in `{wrong[0]}`; the archive is damaged"
            )
        return found

    @property
    def missing(self) -> list[str]:
        """The files that the manifest lists and the archive does not hold."""
        return sorted(self.files.keys() - self._infos.keys())

    @property
    def unlisted(self) -> list[str]:
        """The files that the archive holds and the manifest does not list."""
        return sorted(self._infos.keys() - self.files.keys() - {MANIFEST})

    def read(self, name: str) -> bytes:
        """Return the content of one file; UserError where it is missing, cannot be read, or is not that of the manifest."""
        if name not in self._infos:
            reason = "it has tables and digests alone (--tables)" if WHOLE in self._infos else "the archive is damaged"
            raise UserError(f"{self.file}: has no {name}: {reason}; get the whole archive")
        with _explained(self.file, name), self._bundle.open(self._infos[name]) as member:
            content = member.read()
        if name != MANIFEST and _sha256(content) != self.files.get(name, {}).get("sha256"):
            raise UserError(
                f"{self.file}: {name}: is not the file of its manifest; run nan-merge verify, or get the archive again"
            )
        return content

    def extract(self, folder: Path) -> dict[str, str]:
        """Write every file below a folder; return the SHA-256 by name, "" for a file that cannot be read whole."""
        check_space(folder, sum(i.file_size for i in self._infos.values()), "the unpacked archive", "set TMPDIR to another disk")
        return {name: self._extract(name, folder / name) for name in sorted(self._infos)}

    def _extract(self, name: str, target: Path) -> str:
        digest = hashlib.sha256()
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "wb") as file:
            try:
                with self._bundle.open(self._infos[name]) as member:
                    while block := member.read(1 << 20):
                        digest.update(block)
                        file.write(block)
            except DAMAGED:
                return ""
        return digest.hexdigest()


@contextmanager
def opened(file: Path) -> Iterator[Archive]:
    """Open an archive to read it; UserError where the file is missing, cut off, no zip, or would do harm."""
    if not file.is_file():
        kind = "is a folder" if file.is_dir() else "there is no such file"
        raise UserError(f"{file}: {kind}; name an archive that nan-merge archive has written")
    with _explained(file):
        bundle = zipfile.ZipFile(file)
    with bundle:
        yield Archive(file, bundle)


def refuse_loss(file: Path, tables: bool) -> None:
    """Raise UserError where an archive would replace a file that is none, or tables and digests alone a whole archive."""
    if not file.exists():
        return
    try:
        with opened(file) as archive:
            lost = (
                "is a whole archive, of which tables and digests alone would stay"
                if tables and WHOLE not in archive.files
                else ""
            )
    except UserError as error:
        lost = f"is there, and is no archive that would be replaced ({str(error).removeprefix(f'{file}: ')})"
    if lost:
        raise UserError(f"{file}: {lost}; remove it, or take another name")


@contextmanager
def as_written(where: str) -> Iterator[None]:
    """Turn into a UserError that a file has another content than it should: an archive may hold anything under its name."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise UserError(
            f"{where}: is not what this version writes there ({type(error).__name__}: {error}); get the archive again, or take"
            " the version of nan-merge that wrote it"
        ) from None


@contextmanager
def _explained(file: Path, member: str = "") -> Iterator[None]:
    try:
        yield
    except DAMAGED as error:
        where = f"{file}: {member}" if member else str(file)
        raise UserError(f"{where}: cannot be read ({error}): it is cut off, damaged or no zip; get the archive again") from None


def _refuse_harmful(file: Path, info: zipfile.ZipInfo) -> None:
    """Raise UserError for a member that would be written elsewhere, that is a link or a folder, or that is encrypted."""
    name, path = info.filename, PurePosixPath(info.filename)
    kind = info.external_attr >> 28
    reason = (
        "has a path outside its folder"
        if path.is_absolute() or ".." in path.parts or (name and str(path) != name) or "\\" in name
        else "has no name, or one with control characters"
        if name != one_line(name) or not name
        else "is a link or a folder"
        if kind not in (0, 0o10)
        else "is encrypted"
        if info.flag_bits & 1
        else ""
    )
    if reason:
        raise UserError(f"{file}: member {name!r} {reason}; not unpacked: it was not written by nan-merge archive")
