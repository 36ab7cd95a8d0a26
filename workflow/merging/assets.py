"""Fetch pinned assets: download the named archive, verify it against the lock, extract the named members. No torch.

A wish (config/assets.yaml) says what is wanted; the lock (config/assets.lock.json) holds the size and SHA-256 of
every fetched file. Archives are data: nothing of them is installed or run.
"""

from __future__ import annotations

import fnmatch
import functools
import io
import logging
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.request import urlopen

from merging.progress import bar
from merging.provenance import publish, sha256
from merging.results import UserError, write_json

Wish = Mapping[str, Any]


def fetch(asset: str, wish: Wish, lock: Mapping[str, Any], output: Path) -> None:
    """Put the verified members of one asset into the folder `output`, whole or not at all.

    Raises UserError for an asset that is not locked, a failed download, and a wrong size or SHA-256.
    """
    if asset not in lock:
        raise UserError(
            f"asset '{asset}' is not in config/assets.lock.json; expected the size and sha256 of its files;"
            f" run: python -m scripts.update_lock {asset}"
        )
    with tempfile.TemporaryDirectory(prefix=f"asset-{asset}-") as scratch:
        archive = download(asset, wish, Path(scratch))
        verify(asset, archive, lock[asset])
        with publish(output) as part:
            part.mkdir()
            names = extract(asset, wish, archive, part)
            record = {key: wish[key] for key in ("kind", "package", "version", "licence", "source") if key in wish}
            files = {name: {"size": (part / name).stat().st_size} for name in names}
            write_json(part / "asset.json", {"asset": asset, **record, "archive": lock[asset], "files": files})


def download(asset: str, wish: Wish, folder: Path) -> Path:
    """Download the archive of one asset into `folder` and return its path; what fails is a UserError."""
    try:
        return DOWNLOADS[wish["kind"]](wish, folder)
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


def extract(asset: str, wish: Wish, archive: Path, folder: Path) -> list[str]:
    """Extract the members that match `wish["members"]` below `wish["root"]` and return their names, sorted.

    `wish["inner"]` names an archive inside the archive. A pattern that matches nothing and a member that climbs
    out of the folder are UserErrors.
    """
    root = PurePosixPath(wish.get("root", "."))
    unmatched = set(wish.get("members", ["*"]))
    names = []
    for member, read in _members(archive, wish.get("inner")):
        path = PurePosixPath(member.removeprefix("./"))
        if not path.is_relative_to(root):
            continue
        name = str(path.relative_to(root))
        matching = {pattern for pattern in wish.get("members", ["*"]) if fnmatch.fnmatchcase(name, pattern)}
        if not matching:
            continue
        if ".." in path.parts or path.is_absolute():
            raise UserError(f"asset '{asset}': member {member!r} climbs out of its folder; not extracted")
        unmatched -= matching
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(read())
        names.append(name)
    if unmatched:
        raise UserError(
            f"asset '{asset}': {archive.name} has no member like {sorted(unmatched)} below {str(root)!r};"
            " correct `root:` or `members:` in config/assets.yaml"
        )
    return sorted(names)


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
    return f"{wish['kind']} {wish.get('package') or wish.get('url') or wish.get('path')} {wish.get('version', '')}".rstrip()


def _members(archive: Path, inner: str | None) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield (name, reader) of the regular files of a zip, tar or deb archive, or of the archive `inner` in it."""
    if inner is not None:
        for name, read in _members(archive, None):
            if name.removeprefix("./") == inner:
                try:
                    nested = tarfile.open(fileobj=io.BytesIO(read()))  # noqa: SIM115
                except tarfile.TarError:
                    raise UserError(f"{inner!r} in {archive.name} is no tar archive; correct `inner:`") from None
                yield from _tar(nested)
                return
        raise UserError(f"{archive.name} has no inner archive {inner!r}; correct `inner:` in config/assets.yaml")
    if archive.suffix == ".deb":
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE) as unpacker:
            yield from _tar(tarfile.open(fileobj=unpacker.stdout, mode="r|"))  # noqa: SIM115
    elif zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as bundle:
            for info in bundle.infolist():
                if not info.is_dir():
                    yield info.filename, functools.partial(bundle.read, info)
    elif tarfile.is_tarfile(archive):
        yield from _tar(tarfile.open(archive))  # noqa: SIM115
    else:
        yield archive.name, archive.read_bytes


def _tar(bundle: tarfile.TarFile) -> Iterator[tuple[str, Callable[[], bytes]]]:
    with bundle:
        for info in bundle:
            if info.isfile():
                yield info.name, functools.partial(_content, bundle, info)


def _content(bundle: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = bundle.extractfile(info)
    assert file is not None, "only regular files come here"
    return file.read()


def _pypi(wish: Wish, folder: Path) -> Path:
    """Download one named file of one package with pip's own session: its index, mirrors, proxies and certificates.

    `pip download` would run the setup.py of a source distribution to read its metadata; this runs nothing.
    """
    try:
        from pip._internal.commands.download import DownloadCommand

        logging.getLogger("pip").setLevel(logging.ERROR)
        command = DownloadCommand("download", "")
        options, _ = command.parse_args([])
        session = command._build_session(options)
        finder = command._build_package_finder(options, session)
    except (ImportError, AttributeError, TypeError) as error:
        raise UserError(f"pip 23 to 26 is needed in this environment ({error}); run: python -m pip install 'pip<27'") from None
    links = {c.link.filename: c.link for c in finder.find_all_candidates(wish["package"])}
    if wish["archive"] not in links:
        found = ", ".join(sorted(links)[-3:]) or "nothing (no network, or the package index does not answer)"
        raise UserError(f"the package index does not offer {wish['archive']}; found {found}")
    reply = session.get(links[wish["archive"]].url_without_fragment, stream=True)
    reply.raise_for_status()
    return _save(reply.iter_content(1 << 20), reply.headers.get("content-length"), folder / wish["archive"])


def _deb(wish: Wish, folder: Path) -> Path:
    _run(["apt-get", "download", "-o", "APT::Sandbox::User=", f"{wish['package']}={wish['version']}"], folder)
    return next(folder.glob("*.deb"))


def _npm(wish: Wish, folder: Path) -> Path:
    _run(["npm", "pack", "--silent", "--ignore-scripts", f"{wish['package']}@{wish['version']}"], folder)
    return next(folder.glob("*.tgz"))


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no reason given"]
        raise UserError(f"`{' '.join(command)}` failed: {reason[0]}")


def _url(wish: Wish, folder: Path) -> Path:
    with urlopen(wish["url"], timeout=60) as reply:
        blocks = iter(lambda: reply.read(1 << 20), b"")
        return _save(blocks, reply.headers.get("content-length"), folder / PurePosixPath(wish["url"]).name)


def _save(blocks: Iterable[bytes], size: str | None, target: Path) -> Path:
    with open(target, "wb") as file, bar(target.name, int(size or 0), "B") as shown:
        for block in blocks:
            file.write(block)
            shown.update(len(block))
    return target


def _path(wish: Wish, folder: Path) -> Path:
    if not Path(wish["path"]).is_file():
        raise UserError(f"there is no file {wish['path']}; correct `path:` in config/assets.yaml")
    return Path(wish["path"])


DOWNLOADS: dict[str, Callable[[Wish, Path], Path]] = {"pypi": _pypi, "deb": _deb, "npm": _npm, "url": _url, "path": _path}
