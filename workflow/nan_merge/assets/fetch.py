"""Fetch pinned assets: download what a spec names, verify it against the lock, keep the named files. No torch.

A spec (config/assets.yaml) says what is wanted; the lock (config/assets.lock.json) holds the size and SHA-256 of every
fetched file, and the commit of a repository of the hub. Nothing that is fetched is installed or run.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from nan_merge.assets import hub, registries
from nan_merge.assets.archives import Selection, extract
from nan_merge.assets.http import Remote, receive
from nan_merge.assets.retry import PermanentError
from nan_merge.assets.store import alone, ensure, missing, place
from nan_merge.core.atomic import atomic_write
from nan_merge.core.digests import sha256
from nan_merge.core.disk import check_space
from nan_merge.core.errors import UserError
from nan_merge.core.files import write_json

AssetSpec = Mapping[str, Any]
KEPT = ("kind", "package", "version", "repo", "type", "licence", "source")  # of a spec, in asset.json


def fetch(asset: str, spec: AssetSpec, lock: Mapping[str, Any], output: Path, store: Path) -> None:
    """Put the verified files of one asset into the folder `output`, whole or not at all.

    Downloads of the kinds `hub` and `url` go through the folder `store`, where they are kept under their SHA-256: what
    lies there is not requested again, and what broke off goes on. Raises UserError for an asset that is not locked, a
    failed download, and a wrong size or SHA-256.
    """
    pinned = locked(asset, spec, lock)
    with alone(store / asset, f"asset '{asset}'"):
        (_fetch_files if spec["kind"] == "hub" else _fetch_archive)(asset, spec, pinned, output, store)


def locked(asset: str, spec: AssetSpec, lock: Mapping[str, Any]) -> dict[str, Any]:
    """Return the lock of an asset; UserError with the command that locks it, if it is missing, unverified or of another spec."""
    pinned, mend = lock.get(asset), f"run: python -m scripts.update_lock {asset}"
    if pinned is None:
        raise UserError(f"asset '{asset}' is not in config/assets.lock.json; expected the size and sha256 of its files; {mend}")
    if "unverified" in pinned:
        why = f"holds only values that were not verified ({pinned['unverified']})"
        raise UserError(f"asset '{asset}': config/assets.lock.json {why}; {mend}")
    if spec["kind"] == "hub" and pinned.get("of", wanted := hub.wanted(spec)) != wanted:
        raise UserError(
            f"asset '{asset}': config/assets.yaml asks for {wanted}, config/assets.lock.json is of {pinned['of']}; {mend}"
        )
    return dict(pinned)


def pin(asset: str, spec: AssetSpec) -> dict[str, Any]:
    """Return what the lock should hold of an asset now; its archive is downloaded for that, large files of the hub are not."""
    with tempfile.TemporaryDirectory(prefix=f"asset-{asset}-") as scratch:
        if spec["kind"] == "hub":
            return _named(asset, spec, lambda: hub.pin(spec, Path(scratch)))
        archive = download(asset, spec, Path(scratch))
        return {"name": archive.name, "size": archive.stat().st_size, "sha256": sha256(archive)}


def differences(found: Mapping[str, Any], seen: Mapping[str, Any], where: str = "") -> list[str]:
    """Return where an entry of the lock differs from another one that may say less, in words."""
    words = []
    for key, value in seen.items():
        if isinstance(value, Mapping):
            words += differences(found.get(key, {}), value, f"{where}{key} ")
        elif key not in ("unverified", "of") and found.get(key) != value:
            words.append(f"{where}{key}: {value} was noted, {found.get(key, 'nothing')} is found")
    return words


def _fetch_files(asset: str, spec: AssetSpec, pinned: Mapping[str, Any], output: Path, store: Path) -> None:
    """Fetch the files of one commit of a repository of the hub; the folder has their names counted from `root`."""
    selection = Selection(spec, f"asset '{asset}': its entry in config/assets.lock.json")
    names = {name: path for path in sorted(pinned["files"]) if (name := selection.name(path)) is not None}
    selection.check(f"correct `members:` in config/assets.yaml, or run: python -m scripts.update_lock {asset}")
    remotes = {name: hub.remote(spec, path, pinned) for name, path in names.items()}
    places = {name: store / str(remote.sha256) for name, remote in remotes.items()}
    _check_space(asset, store, sum(missing(remote, places[name]) for name, remote in remotes.items()))
    for name, remote in remotes.items():
        _named(asset, spec, functools.partial(ensure, remote, places[name]))
    with atomic_write(output) as part:
        part.mkdir()
        for name, file in places.items():
            place(file, part / name)
        files = {name: pinned["files"][path] for name, path in names.items()}
        _write_record(asset, spec, part, {"commit": pinned["commit"], "files": files})


def _fetch_archive(asset: str, spec: AssetSpec, pinned: Mapping[str, Any], output: Path, store: Path) -> None:
    """Fetch one file and extract its members."""
    with tempfile.TemporaryDirectory(prefix=f"asset-{asset}-") as scratch:
        if spec["kind"] == "url":
            archive = _named(asset, spec, functools.partial(_stored, asset, spec, pinned, Path(scratch), store))
        else:
            archive = download(asset, spec, Path(scratch))
        verify(asset, archive, pinned)
        with atomic_write(output) as part:
            part.mkdir()
            names = extract(asset, spec, archive, part)
            files = {name: {"size": (part / name).stat().st_size} for name in names}
            _write_record(asset, spec, part, {"archive": pinned, "files": files})


def _write_record(asset: str, spec: AssetSpec, folder: Path, found: Mapping[str, Any]) -> None:
    record = {key: spec[key] for key in KEPT if key in spec}
    write_json(folder / "asset.json", {"asset": asset, **record, **found})


def _check_space(asset: str, store: Path, needed: int) -> None:
    check_space(store, needed, f"the download of asset '{asset}'", "free some, or run elsewhere with --directory")


def download(asset: str, spec: AssetSpec, folder: Path) -> Path:
    """Download the archive of one asset into `folder` and return its path; what fails is a UserError."""
    return _named(asset, spec, lambda: DOWNLOADS[spec["kind"]](spec, folder))


def _named(asset: str, spec: AssetSpec, step: Callable[[], Any]) -> Any:
    """Run a step of fetching an asset; its errors say which asset it is and what mends them."""
    try:
        return step()
    except PermanentError as error:
        way_out = hub.way_out(asset, spec, error) if spec["kind"] == "hub" else "correct `url:` in config/assets.yaml"
        raise UserError(f"asset '{asset}' ({_title(spec)}): {error}; {way_out}") from None
    except UserError as error:
        raise UserError(f"asset '{asset}' ({_title(spec)}): {error}") from None
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"asset '{asset}' ({_title(spec)}) cannot be downloaded: {error}") from None


def verify(asset: str, archive: Path, pinned: Mapping[str, Any]) -> None:
    """Compare name, size and SHA-256 of a downloaded archive with the lock; a difference is a UserError."""
    found = {"name": archive.name, "size": archive.stat().st_size, "sha256": sha256(archive)}
    for key, value in found.items():
        if pinned[key] != value:
            raise UserError(
                f"asset '{asset}': {key} of {archive.name}: expected {pinned[key]} (config/assets.lock.json),"
                f" found {value}; the download is broken or the package was changed. Nothing was kept. If the"
                f" change is meant, run: python -m scripts.update_lock {asset}"
            )


def unavailable(specs: Mapping[str, AssetSpec]) -> dict[str, str]:
    """Return the assets that cannot be had on this machine, each with the reason.

    Only kinds that need a program of the machine (`deb`, `npm`) can be unavailable; PyPI is asked at fetch time. All
    Debian packages are looked up in one call, since planning waits for it.
    """
    reasons = {}
    for asset, spec in specs.items():
        program = {"deb": "apt-get", "npm": "npm"}.get(spec["kind"])
        if program and shutil.which(program) is None:
            reasons[asset] = f"{_title(spec)} needs {program}, which this machine does not have"
    debs = {a: f"{w['package']}={w['version']}" for a, w in specs.items() if w["kind"] == "deb" and a not in reasons}
    if debs:
        shown = subprocess.run(["apt-cache", "show", *debs.values()], capture_output=True, text=True, check=False).stdout
        stanzas = [dict(line.split(": ", 1) for line in s.splitlines() if ": " in line) for s in shown.split("\n\n")]
        known = {f"{s['Package']}={s['Version']}" for s in stanzas if "Package" in s}
        for asset, wanted in debs.items():
            if wanted not in known:
                reasons[asset] = f"apt does not know {wanted} (another release, or run `apt-get update` first)"
    return reasons


def _title(spec: AssetSpec) -> str:
    what = next(spec[key] for key in ("package", "url", "path", "repo") if key in spec)
    return f"{spec['kind']} {what} {spec.get('version', '')}".rstrip()


def _stored(asset: str, spec: AssetSpec, pinned: Mapping[str, Any], folder: Path, store: Path) -> Path:
    """Bring the file of an address into the store and return a name of it in `folder`."""
    remote, kept = _address(spec, pinned["size"], pinned["sha256"]), store / pinned["sha256"]
    _check_space(asset, store, missing(remote, kept))
    ensure(remote, kept)
    (folder / remote.what).symlink_to(kept.absolute())
    return folder / remote.what


def _address(spec: AssetSpec, size: int | None = None, digest: str | None = None) -> Remote:
    return Remote(spec["url"], PurePosixPath(urlsplit(spec["url"]).path).name, size, digest)


def _url(spec: AssetSpec, folder: Path) -> Path:
    remote = _address(spec)
    receive(remote, folder / remote.what)
    return folder / remote.what


def _path(spec: AssetSpec, folder: Path) -> Path:
    file = Path(spec["path"]).expanduser()
    if not file.is_file():
        raise UserError(f"there is no file {spec['path']}; put it there, or correct `path:` in config/assets.yaml")
    return file


DOWNLOADS: dict[str, Callable[[AssetSpec, Path], Path]] = {
    "pypi": registries.pypi,
    "deb": registries.deb,
    "npm": registries.npm,
    "url": _url,
    "path": _path,
}
