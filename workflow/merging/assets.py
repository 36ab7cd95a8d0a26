"""Fetch pinned assets: download what a wish names, verify it against the lock, keep the named files. No torch.

A wish (config/assets.yaml) says what is wanted; the lock (config/assets.lock.json) holds the size and SHA-256 of every
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

from merging import registries, repositories
from merging.archives import Selection, extract
from merging.disk import check_space
from merging.downloads import alone, ensure, missing, place
from merging.patience import Refused
from merging.provenance import publish, sha256
from merging.results import UserError, write_json
from merging.transfers import Remote, receive

Wish = Mapping[str, Any]
KEPT = ("kind", "package", "version", "repo", "type", "licence", "source")  # of a wish, in asset.json


def fetch(asset: str, wish: Wish, lock: Mapping[str, Any], output: Path, store: Path) -> None:
    """Put the verified files of one asset into the folder `output`, whole or not at all.

    Downloads of the kinds `hub` and `url` go through the folder `store`, where they are kept under their SHA-256: what
    lies there is not requested again, and what broke off goes on. Raises UserError for an asset that is not locked, a
    failed download, and a wrong size or SHA-256.
    """
    pinned = locked(asset, wish, lock)
    with alone(store / asset, f"asset '{asset}'"):
        (_fetch_files if wish["kind"] == "hub" else _fetch_archive)(asset, wish, pinned, output, store)


def locked(asset: str, wish: Wish, lock: Mapping[str, Any]) -> dict[str, Any]:
    """Return the lock of an asset; UserError with the command that locks it, if it is missing, unverified or of another wish."""
    pinned, mend = lock.get(asset), f"run: python -m scripts.update_lock {asset}"
    if pinned is None:
        raise UserError(f"asset '{asset}' is not in config/assets.lock.json; expected the size and sha256 of its files; {mend}")
    if "unverified" in pinned:
        why = f"holds only values that were not verified ({pinned['unverified']})"
        raise UserError(f"asset '{asset}': config/assets.lock.json {why}; {mend}")
    if wish["kind"] == "hub" and pinned.get("of", wanted := repositories.wanted(wish)) != wanted:
        raise UserError(
            f"asset '{asset}': config/assets.yaml asks for {wanted}, config/assets.lock.json is of {pinned['of']}; {mend}"
        )
    return dict(pinned)


def pin(asset: str, wish: Wish) -> dict[str, Any]:
    """Return what the lock should hold of an asset now; its archive is downloaded for that, large files of the hub are not."""
    with tempfile.TemporaryDirectory(prefix=f"asset-{asset}-") as scratch:
        if wish["kind"] == "hub":
            return _named(asset, wish, lambda: repositories.pin(wish, Path(scratch)))
        archive = download(asset, wish, Path(scratch))
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


def _fetch_files(asset: str, wish: Wish, pinned: Mapping[str, Any], output: Path, store: Path) -> None:
    """Fetch the files of one commit of a repository of the hub; the folder has their names counted from `root`."""
    selection = Selection(wish, f"asset '{asset}': its entry in config/assets.lock.json")
    names = {name: path for path in sorted(pinned["files"]) if (name := selection.name(path)) is not None}
    selection.check(f"correct `members:` in config/assets.yaml, or run: python -m scripts.update_lock {asset}")
    remotes = {name: repositories.remote(wish, path, pinned) for name, path in names.items()}
    places = {name: store / str(remote.sha256) for name, remote in remotes.items()}
    _check_space(asset, store, sum(missing(remote, places[name]) for name, remote in remotes.items()))
    for name, remote in remotes.items():
        _named(asset, wish, functools.partial(ensure, remote, places[name]))
    with publish(output) as part:
        part.mkdir()
        for name, file in places.items():
            place(file, part / name)
        files = {name: pinned["files"][path] for name, path in names.items()}
        _write_record(asset, wish, part, {"commit": pinned["commit"], "files": files})


def _fetch_archive(asset: str, wish: Wish, pinned: Mapping[str, Any], output: Path, store: Path) -> None:
    """Fetch one file and extract its members."""
    with tempfile.TemporaryDirectory(prefix=f"asset-{asset}-") as scratch:
        if wish["kind"] == "url":
            archive = _named(asset, wish, functools.partial(_stored, asset, wish, pinned, Path(scratch), store))
        else:
            archive = download(asset, wish, Path(scratch))
        verify(asset, archive, pinned)
        with publish(output) as part:
            part.mkdir()
            names = extract(asset, wish, archive, part)
            files = {name: {"size": (part / name).stat().st_size} for name in names}
            _write_record(asset, wish, part, {"archive": pinned, "files": files})


def _write_record(asset: str, wish: Wish, folder: Path, found: Mapping[str, Any]) -> None:
    record = {key: wish[key] for key in KEPT if key in wish}
    write_json(folder / "asset.json", {"asset": asset, **record, **found})


def _check_space(asset: str, store: Path, needed: int) -> None:
    check_space(store, needed, f"the download of asset '{asset}'", "free some, or run elsewhere with --directory")


def download(asset: str, wish: Wish, folder: Path) -> Path:
    """Download the archive of one asset into `folder` and return its path; what fails is a UserError."""
    return _named(asset, wish, lambda: DOWNLOADS[wish["kind"]](wish, folder))


def _named(asset: str, wish: Wish, step: Callable[[], Any]) -> Any:
    """Run a step of fetching an asset; its errors say which asset it is and what mends them."""
    try:
        return step()
    except Refused as error:
        way_out = repositories.way_out(asset, wish, error) if wish["kind"] == "hub" else "correct `url:` in config/assets.yaml"
        raise UserError(f"asset '{asset}' ({_title(wish)}): {error}; {way_out}") from None
    except UserError as error:
        raise UserError(f"asset '{asset}' ({_title(wish)}): {error}") from None
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"asset '{asset}' ({_title(wish)}) cannot be downloaded: {error}") from None


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


def unavailable(wishes: Mapping[str, Wish]) -> dict[str, str]:
    """Return the assets that cannot be had on this machine, each with the reason.

    Only kinds that need a program of the machine (`deb`, `npm`) can be unavailable; PyPI is asked at fetch time. All
    Debian packages are looked up in one call, since planning waits for it.
    """
    reasons = {}
    for asset, wish in wishes.items():
        program = {"deb": "apt-get", "npm": "npm"}.get(wish["kind"])
        if program and shutil.which(program) is None:
            reasons[asset] = f"{_title(wish)} needs {program}, which this machine does not have"
    debs = {a: f"{w['package']}={w['version']}" for a, w in wishes.items() if w["kind"] == "deb" and a not in reasons}
    if debs:
        shown = subprocess.run(["apt-cache", "show", *debs.values()], capture_output=True, text=True, check=False).stdout
        stanzas = [dict(line.split(": ", 1) for line in s.splitlines() if ": " in line) for s in shown.split("\n\n")]
        known = {f"{s['Package']}={s['Version']}" for s in stanzas if "Package" in s}
        for asset, wanted in debs.items():
            if wanted not in known:
                reasons[asset] = f"apt does not know {wanted} (another release, or run `apt-get update` first)"
    return reasons


def _title(wish: Wish) -> str:
    what = next(wish[key] for key in ("package", "url", "path", "repo") if key in wish)
    return f"{wish['kind']} {what} {wish.get('version', '')}".rstrip()


def _stored(asset: str, wish: Wish, pinned: Mapping[str, Any], folder: Path, store: Path) -> Path:
    """Bring the file of an address into the store and return a name of it in `folder`."""
    remote, kept = _address(wish, pinned["size"], pinned["sha256"]), store / pinned["sha256"]
    _check_space(asset, store, missing(remote, kept))
    ensure(remote, kept)
    (folder / remote.what).symlink_to(kept.absolute())
    return folder / remote.what


def _address(wish: Wish, size: int | None = None, digest: str | None = None) -> Remote:
    return Remote(wish["url"], PurePosixPath(urlsplit(wish["url"]).path).name, size, digest)


def _url(wish: Wish, folder: Path) -> Path:
    remote = _address(wish)
    receive(remote, folder / remote.what)
    return folder / remote.what


def _path(wish: Wish, folder: Path) -> Path:
    file = Path(wish["path"]).expanduser()
    if not file.is_file():
        raise UserError(f"there is no file {wish['path']}; put it there, or correct `path:` in config/assets.yaml")
    return file


DOWNLOADS: dict[str, Callable[[Wish, Path], Path]] = {
    "pypi": registries.pypi,
    "deb": registries.deb,
    "npm": registries.npm,
    "url": _url,
    "path": _path,
}
