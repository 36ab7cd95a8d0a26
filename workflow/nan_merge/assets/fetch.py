"""Fetch pinned assets: download the files of a spec, verify them against the lock, keep the named ones.

A spec is an entry of config/assets.yaml. The lock (config/assets.lock.json) holds size and SHA-256 of every fetched file,
and the commit of a repository of the hub. A folder of kind `path` is copied. No content is installed or run.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from nan_merge.assets import hub, registries
from nan_merge.assets.archives import Selection, extract
from nan_merge.assets.http import Remote, receive, shown_address
from nan_merge.assets.retry import PermanentError, TransientError
from nan_merge.assets.store import alone, ensure, missing, place
from nan_merge.core.atomic import atomic_write
from nan_merge.core.disk import check_space
from nan_merge.core.errors import UserError
from nan_merge.core.files import is_cached, sha256, write_json

AssetSpec = Mapping[str, Any]
KEPT = ("kind", "package", "version", "repo", "type", "licence", "source")  # keys of a spec that asset.json repeats


def fetch(asset: str, spec: AssetSpec, lock: Mapping[str, Any], output: Path, store: Path) -> None:
    """Put the verified files of one asset into the folder `output`, whole or not at all.

    `store` keeps downloads of the kinds `hub` and `url` by SHA-256, to resume them and not to fetch them twice.
    Raises UserError if the asset is not locked, its download fails, or a size or SHA-256 is not that of the lock.
    """
    pinned = locked(asset, spec, lock)
    kind = "repository" if spec["kind"] == "hub" else "folder" if _is_folder(asset, spec) else "file"
    of_lock = "repository" if "commit" in pinned else "folder" if "files" in pinned else "file"
    if kind != of_lock:
        found = f"{_title(spec)} is a {kind}, a {of_lock} in config/assets.lock.json"
        raise UserError(f"asset '{asset}': {found}; if the change is meant, run: {_lock_command(asset)}")
    fetch_kind = {"repository": _fetch_files, "folder": _copy_folder, "file": _fetch_archive}[kind]
    with alone(store / asset, f"asset '{asset}'"):
        fetch_kind(asset, spec, pinned, output, store)


def locked(asset: str, spec: AssetSpec, lock: Mapping[str, Any]) -> dict[str, Any]:
    """Return the lock of an asset; UserError if it is missing, unverified or of another spec."""
    pinned, correction = lock.get(asset), f"run: {_lock_command(asset)}"
    if pinned is None:
        raise UserError(
            f"asset '{asset}' is not in config/assets.lock.json; expected the size and sha256 of its files; {correction}"
        )
    if "unverified" in pinned:
        reason = f"has only values that were not verified ({pinned['unverified']})"
        raise UserError(f"asset '{asset}': config/assets.lock.json {reason}; {correction}")
    if spec["kind"] == "hub" and pinned.get("of", source := str(hub.Repository.of(spec))) != source:
        raise UserError(
            f"asset '{asset}': {source} in config/assets.yaml, {pinned['of']} in config/assets.lock.json; {correction}"
        )
    return dict(pinned)


def pin(asset: str, spec: AssetSpec) -> dict[str, Any]:
    """Return the current lock of an asset; archives are downloaded for that, large files of the hub are not.

    Hidden files of a folder of kind `path` do not belong to it.
    """
    with tempfile.TemporaryDirectory(prefix=f"asset-{asset}-") as scratch:
        if spec["kind"] == "hub":
            with _explained(asset, spec):
                return hub.pin(spec, Path(scratch))
        if _is_folder(asset, spec):
            folder, selection = _place(spec), Selection(spec, f"asset '{asset}': {spec['path']}")
            paths = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
            paths = [path for path in paths if not f"/{path}".count("/.") and selection.name(path) is not None]
            selection.check()
            _check_links(asset, folder, paths)
            return {"files": {path: _measured(folder / path) for path in paths}}
        archive = download(asset, spec, Path(scratch))
        return {"name": archive.name, **_measured(archive)}


def _measured(file: Path) -> dict[str, Any]:
    return {"size": file.stat().st_size, "sha256": sha256(file)}


def differences(entry: Mapping[str, Any], old: Mapping[str, Any], where: str = "") -> list[str]:
    """Return the values of an old entry of the lock that a new one contradicts, as text."""
    lines = []
    for key, value in old.items():
        if isinstance(value, Mapping):
            lines += differences(entry.get(key, {}), value, f"{where}{key} ")
        elif key not in ("unverified", "of") and entry.get(key) != value:
            lines.append(f"{where}{key}: noted {value}, found {entry.get(key, 'nothing')}")
    return lines


def _selected(asset: str, spec: AssetSpec, pinned: Mapping[str, Any]) -> dict[str, str]:
    """Return the locked files that the spec selects: {name from `root` on: path in the repository or folder}."""
    selection = Selection(spec, f"asset '{asset}': its entry in config/assets.lock.json")
    names = {name: path for path in sorted(pinned["files"]) if (name := selection.name(path)) is not None}
    selection.check(f"correct `members:` in config/assets.yaml, or run: {_lock_command(asset)}")
    return names


def _fetch_files(asset: str, spec: AssetSpec, pinned: Mapping[str, Any], output: Path, store: Path) -> None:
    """Fetch the files of one commit of a repository of the hub, named from `root` on."""
    names = _selected(asset, spec, pinned)
    files = {name: pinned["files"][path] for name, path in names.items()}
    repository, commit = hub.Repository.of(spec), pinned["commit"]
    remotes = {name: repository.remote(names[name], commit, file["size"], file["sha256"]) for name, file in files.items()}
    stored = {name: store / file["sha256"] for name, file in files.items()}
    _check_space(asset, store, sum(missing(remote, stored[name]) for name, remote in remotes.items()))
    for name, remote in remotes.items():
        with _explained(asset, spec):
            ensure(remote, stored[name])
    with atomic_write(output) as part:
        part.mkdir()
        for name, file in stored.items():
            place(file, part / name)
        _write_record(asset, spec, part, {"commit": commit, "files": files})


def _copy_folder(asset: str, spec: AssetSpec, pinned: Mapping[str, Any], output: Path, store: Path) -> None:
    """Copy the files of a folder, named from `root` on: what is changed in the folder later changes no result."""
    folder, names = _place(spec), _selected(asset, spec, pinned)
    files = {name: pinned["files"][path] for name, path in names.items()}
    _check_links(asset, folder, names.values())
    _check_space(asset, store, sum(file["size"] for file in files.values()))
    with atomic_write(output) as part:
        part.mkdir()
        for name, path in names.items():
            if not (folder / path).is_file():
                raise UserError(
                    f"asset '{asset}': {folder / path} is missing, a file that config/assets.lock.json names; nothing was kept."
                    f" If it is meant to be gone, run: {_lock_command(asset)}"
                )
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / path, part / name)
            verify(asset, part / name, files[name], str(folder / path), "it was changed after it was locked")
        _write_record(asset, spec, part, {"files": files})


def _check_links(asset: str, folder: Path, paths: Iterable[str]) -> None:
    """Raise a UserError for a link that leads out of the folder, other than into the cache of Hugging Face."""
    root = folder.resolve()
    for path in paths:
        real = (folder / path).resolve()
        if not (real.is_relative_to(root) or is_cached(real)):
            raise UserError(
                f"asset '{asset}': {folder / path} is a link to {real}, out of the folder of `path:`; a folder of others could"
                " take a file of yours along. Copy the file there, or name its own folder in `path:` of config/assets.yaml"
            )


def _fetch_archive(asset: str, spec: AssetSpec, pinned: Mapping[str, Any], output: Path, store: Path) -> None:
    """Fetch one file and extract its members."""
    with tempfile.TemporaryDirectory(prefix=f"asset-{asset}-") as scratch:
        if spec["kind"] == "url":
            archive = _stored(asset, spec, pinned, Path(scratch), store)
        else:
            archive = download(asset, spec, Path(scratch))
        verify(asset, archive, pinned)
        with atomic_write(output) as part:
            part.mkdir()
            names = extract(asset, spec, archive, part)
            files = {name: {"size": (part / name).stat().st_size} for name in names}
            _write_record(asset, spec, part, {"archive": pinned, "files": files})


def _write_record(asset: str, spec: AssetSpec, folder: Path, origin: Mapping[str, Any]) -> None:
    record = {key: spec[key] for key in KEPT if key in spec}
    write_json(folder / "asset.json", {"asset": asset, **record, **origin})


def _check_space(asset: str, store: Path, needed: int) -> None:
    check_space(store, needed, f"the download of asset '{asset}'", "free some, or run elsewhere with --directory")


def download(asset: str, spec: AssetSpec, folder: Path) -> Path:
    """Download the archive of one asset into `folder` and return its path; UserError for a failure."""
    with _explained(asset, spec):
        return DOWNLOADS[spec["kind"]](spec, folder)


@contextmanager
def _explained(asset: str, spec: AssetSpec) -> Iterator[None]:
    """Add the name of the asset and the correction to the errors of a download."""
    try:
        yield
    except TransientError as error:
        raise UserError(f"asset '{asset}' ({_title(spec)}): {error}; run again later") from None
    except PermanentError as error:
        correction = "correct `url:` in config/assets.yaml"
        if spec["kind"] == "hub":
            correction = hub.Repository.of(spec).correction(error, _lock_command(asset))
        raise UserError(f"asset '{asset}' ({_title(spec)}): {error}; {correction}") from None
    except UserError as error:
        raise type(error)(f"asset '{asset}' ({_title(spec)}): {error}") from None
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"asset '{asset}' ({_title(spec)}) cannot be downloaded: {error}") from None


def _lock_command(asset: str) -> str:
    return f"nan-merge lock {asset}"


BROKEN = "the download is broken or the package was changed"


def verify(asset: str, file: Path, pinned: Mapping[str, Any], shown: str = "", cause: str = BROKEN) -> None:
    """Compare size and SHA-256 of a file, and its name if it is locked, with the lock; UserError for a difference."""
    for key, value in {"name": file.name, **_measured(file)}.items():
        if pinned.get(key, value) != value:
            raise UserError(
                f"asset '{asset}': {key} of {shown or file.name}: expected {pinned[key]} (config/assets.lock.json), found"
                f" {value}; {cause}. Nothing was kept. If the change is meant, run: {_lock_command(asset)}"
            )


def unavailable(specs: Mapping[str, AssetSpec]) -> dict[str, str]:
    """Return the assets that cannot be had on this machine, each with the reason.

    Only the kinds `deb` and `npm`, which need a program, can be unavailable; PyPI is asked when an asset is fetched. One call
    looks up all Debian packages, since planning waits for it.
    """
    reasons = {}
    for asset, spec in specs.items():
        program = {"deb": "apt-get", "npm": "npm"}.get(spec["kind"])
        if program and shutil.which(program) is None:
            reasons[asset] = f"{_title(spec)} needs {program}, which this machine does not have"
    debs = {a: f"{s['package']}={s['version']}" for a, s in specs.items() if s["kind"] == "deb" and a not in reasons}
    if debs:
        shown = subprocess.run(["apt-cache", "show", *debs.values()], capture_output=True, text=True, check=False).stdout
        stanzas = [dict(line.split(": ", 1) for line in s.splitlines() if ": " in line) for s in shown.split("\n\n")]
        known = {f"{s['Package']}={s['Version']}" for s in stanzas if "Package" in s}
        for asset, package in debs.items():
            if package not in known:
                reasons[asset] = f"apt does not know {package} (another release, or run `apt-get update` first)"
    return reasons


def _title(spec: AssetSpec) -> str:
    name = next(
        shown_address(spec[key]) if key == "url" else spec[key] for key in ("package", "url", "path", "repo") if key in spec
    )
    return f"{spec['kind']} {name} {spec.get('version', '')}".rstrip()


def _stored(asset: str, spec: AssetSpec, pinned: Mapping[str, Any], folder: Path, store: Path) -> Path:
    """Bring the file of an address into the store and return a link to it in `folder`."""
    remote, file = _address(spec, pinned["size"], pinned["sha256"]), store / pinned["sha256"]
    with _explained(asset, spec):
        _check_space(asset, store, missing(remote, file))
        ensure(remote, file)
    (folder / remote.name).symlink_to(file.absolute())
    return folder / remote.name


def _address(spec: AssetSpec, size: int | None = None, digest: str | None = None) -> Remote:
    name = ""
    with suppress(ValueError):  # of an address that is none, which the request will tell
        name = PurePosixPath(urlsplit(spec["url"]).path).name
    return Remote(spec["url"], name if name.strip(".") else "download", size, digest)


def _url(spec: AssetSpec, folder: Path) -> Path:
    """Download a file of unknown size: at most LARGEST bytes of it, or twice the `bytes` that the spec states."""
    remote = replace(_address(spec), most=2 * spec["bytes"] if "bytes" in spec else None)
    receive(remote, folder / remote.name)
    return folder / remote.name


def _place(spec: AssetSpec) -> Path:
    """Return the file or folder of an asset of kind `path`."""
    place = Path(spec["path"]).expanduser()
    if not place.exists():
        raise UserError(f"there is no file or folder {spec['path']}; put it there, or correct `path:` in config/assets.yaml")
    return place


def _is_folder(asset: str, spec: AssetSpec) -> bool:
    with _explained(asset, spec):
        return spec["kind"] == "path" and _place(spec).is_dir()


DOWNLOADS: dict[str, Callable[[AssetSpec, Path], Path]] = {
    "pypi": registries.pypi, "deb": registries.deb, "npm": registries.npm, "url": _url, "path": lambda spec, _: _place(spec),
}  # fmt: skip
