"""What a merge may replace, and inputs that must stay as they are.

A merged model lists its files with their digests in provenance.json. Only a folder that equals its list is replaced.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xxhash import xxh3_128_hexdigest

from nan_merge.checkpoints.companions import of_folder
from nan_merge.checkpoints.writer import digest
from nan_merge.core.errors import UserError
from nan_merge.core.files import canonical, read_json, write_json
from nan_merge.core.handles import Stamp
from nan_merge.layouts.names import join_first
from nan_merge.standalone.mergekit_export import HEAD
from nan_merge.standalone.model_card import PROVENANCE
from nan_merge.standalone.sources import Source, files

FILES = "files"  # key of provenance.json: size and digest of every file of the folder, by its path


def seal(folder: Path, known: Mapping[str, str]) -> None:
    """List all files of a merged model in its provenance.json; `known` are the digests of files that were just written."""
    record = read_json(folder / PROVENANCE)
    listed = {
        name: {"size": file.stat().st_size, "xxh3_128": known.get(name) or digest(file)}
        for name, file in _files(folder).items()
        if name != PROVENANCE
    }
    write_json(folder / PROVENANCE, {**record, FILES: {**listed, PROVENANCE: _of_record(record)}})


def why_not_ours(folder: Path, *, by_size: bool = False) -> str:
    """Say why a folder is not a merged model as it was written; empty if it is one.

    All files are read; `by_size` only their sizes, which do not tell a number that was changed.
    """
    if not (folder / PROVENANCE).is_file():
        return f"it has no {PROVENANCE}"
    try:
        record = read_json(folder / PROVENANCE)
    except UserError as error:
        return str(error)
    listed = record.pop(FILES, None) if isinstance(record, dict) else None
    if not isinstance(listed, dict):
        return f"its {PROVENANCE} does not list its files"
    found = _files(folder)
    if added := sorted(found.keys() - listed.keys()):
        return f"it holds files that are not of the merge: {join_first(added)}"
    changed = [name for name, file in sorted(found.items()) if not _is_as_listed(name, file, listed[name], record, by_size)]
    return f"files of it were changed: {join_first(changed)}" if changed else ""


def _is_as_listed(name: str, file: Path, about: Any, record: Mapping[str, Any], by_size: bool) -> bool:
    if file.is_symlink() or not file.is_file():
        return False
    if name == PROVENANCE:
        return about == _of_record(record)
    if not isinstance(about, dict) or file.stat().st_size != about.get("size"):
        return False
    return by_size or digest(file) == about.get("xxh3_128")


def _of_record(record: Mapping[str, Any]) -> dict[str, str]:
    return {"xxh3_128": xxh3_128_hexdigest(canonical(record).encode("utf-8", "backslashreplace"))}


def _files(folder: Path) -> dict[str, Path]:
    """Return everything below a folder but folders, by its relative path."""
    below = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    return {path.relative_to(folder).as_posix(): path for path in below}


@dataclass
class Output:
    """The folder that a merge goes to."""

    given: Path
    old: dict[str, Stamp] | None = field(default=None, init=False)  # its files before

    @property
    def target(self) -> Path:
        """The folder itself, without links."""
        return self.given.resolve()

    def check(self, overwrite: bool) -> None:
        """Raise a UserError if the output exists, unless it is empty or an unchanged merge, and may be overwritten."""
        if not os.path.lexists(self.target):
            return
        self.old = self._stamps(self.target) if self.target.is_dir() else {}
        empty = self.target.is_dir() and not any(self.target.iterdir())
        reason = "it is a file" if not self.target.is_dir() else "" if empty else why_not_ours(self.target, by_size=not overwrite)
        if reason:
            raise UserError(
                f"{self.given}: exists already, and is no merged model as it was written ({reason}); only those are overwritten."
                " Move what you want to keep elsewhere and remove the folder by hand, or choose another --output"
            )
        if not overwrite:
            raise UserError(
                f"{self.given}: exists already; choose another --output, or add --overwrite to replace it, if nothing in it was"
                " changed"
            )

    def is_unchanged(self, folder: Path) -> bool:
        """Return whether the replaced folder, which has another name now, still holds the files that were checked."""
        return self._stamps(folder) == self.old

    @staticmethod
    def _stamps(folder: Path) -> dict[str, Stamp]:
        return {name: Stamp.of(file.lstat()) for name, file in _files(folder).items()}


@dataclass(frozen=True)
class Inputs:
    """The files of the models that enter a merge, as they were when it began."""

    stamps: Mapping[Path, tuple[Path, Stamp]]  # file -> (file without links, stamp)

    @classmethod
    def of(cls, folders: Mapping[str, Path]) -> Inputs:
        """Look at weights and configs of all models, and at what is copied from the base."""
        watched = [folder / name for folder in folders.values() for name in files(folder)]
        copied = [folders["base"] / name for name in of_folder(folders["base"])[0].copied]
        return cls({file: (file.resolve(), Stamp.of(file.stat())) for file in {*watched, *copied}})

    def check(self) -> None:
        """Raise a UserError for a file that has been changed since; called at the end of every pass over the models."""
        for file, (place, stamp) in self.stamps.items():
            try:
                now = Stamp.of(file.stat())
            except OSError as error:
                what = str(error.strerror)
            else:
                what = f"it is a link to {file.resolve()} now" if file.resolve() != place else stamp.difference(now)
            if what:
                raise UserError(
                    f"{file}: was changed during the merge ({what}), so nothing was written; leave it alone, run again"
                )


def check_inputs(output: Path, sources: Mapping[str, Source], inputs: Inputs) -> None:
    """Raise a UserError if the output would replace an input or a file that it links to, or if two inputs are one model."""
    seen: dict[Path, str] = {}
    target = output.resolve()
    for name, source in sources.items():
        folder = source.folder.resolve()
        if target in (folder, *folder.parents) or folder in target.parents:
            raise UserError(f"{output}: would replace or lie in the input '{name}' ({source.given}); choose another --output")
        if folder in seen:
            raise UserError(f"'{name}' and '{seen[folder]}' are the same model, {source.given}; leave one out")
        seen[folder] = name
    for file, (place, _) in inputs.stamps.items():
        if target in place.parents:
            raise UserError(f"{output}: would replace {place}, which the input {file} is a link to; choose another --output")


def check_export(file: Path, output: Path, overwrite: bool) -> None:
    """Raise a UserError if the mergekit config would lie in the output, or replace anything but an older export."""
    if output.resolve() in (file.resolve(), *file.resolve().parents):
        raise UserError(f"--export-mergekit {file}: is or lies in the output, which is replaced whole; choose a file elsewhere")
    if not os.path.lexists(file):
        return
    if not file.is_file() or not _begins(file, HEAD.encode()):
        raise UserError(
            f"--export-mergekit {file}: exists already, and is no config that was exported here; only those are overwritten."
            " Choose another file"
        )
    if not overwrite:
        raise UserError(f"--export-mergekit {file}: exists already; choose another file, or add --overwrite to replace it")


def _begins(file: Path, text: bytes) -> bool:
    with open(file, "rb") as stream:
        return stream.read(len(text)) == text
