"""Download one named file of a package index: PyPI by pip, Debian by apt, npm by npm. No package is installed or run."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from nan_merge.assets import retry
from nan_merge.assets.http import LARGEST, whole_number
from nan_merge.assets.retry import Pace, TransientError, within
from nan_merge.core.errors import UserError
from nan_merge.core.progress import bar

CHECKED = 0.2  # seconds between two looks at what a program has downloaded
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
            if file.tell() > LARGEST:
                raise UserError(f"{target.name}: more than {LARGEST:,} bytes, the most that is fetched of a file of unknown size")
            shown.update(len(block))
            pace.received(len(block))
    return target


def deb(spec: Mapping[str, Any], folder: Path) -> Path:
    """Download one Debian package of one version."""
    _run(["apt-get", "download", "-o", "APT::Sandbox::User=", "--", f"{spec['package']}={spec['version']}"], folder)
    return next(folder.glob("*.deb"))


def npm(spec: Mapping[str, Any], folder: Path) -> Path:
    """Download the tarball of one npm package of one version; what npm keeps lies in the folder too, and shows its progress."""
    package = f"{spec['package']}@{spec['version']}"
    _run(["npm", "pack", "--silent", "--ignore-scripts", f"--cache={folder / '.npm'}", "--", package], folder)
    return next(folder.glob("*.tgz"))


def _run(command: list[str], folder: Path) -> None:
    """Run a program that downloads into `folder`; it is ended where it brings nothing, or too little.

    All of its processes are ended with it.
    """
    policy, pace, before = retry.RETRY_POLICY, Pace(), 0
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command, cwd=folder, stdout=said, stderr=said, stdin=subprocess.DEVNULL, start_new_session=True
        )
        limit = time.monotonic() + policy.answer_timeout
        try:
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(CHECKED)
                if now := _size(folder):
                    pace.received(max(now - before, 0))
                    before = now
                elif time.monotonic() > limit:
                    raise TransientError(f"no content in {policy.answer_timeout:,.0f} s")
        except TransientError as error:
            raise UserError(f"`{' '.join(command)}`: {error}; given up, run again later") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        said.seek(0)
        lines = said.read().decode(errors="replace").strip().splitlines()
    if process.returncode:
        raise UserError(f"`{' '.join(command)}` failed: {(lines or ['no reason given'])[-1]}")


def _size(folder: Path) -> int:
    """Return the bytes of all files below a folder, some of which a program may be moving."""
    count = 0
    for file in folder.rglob("*"):
        with suppress(OSError):
            count += file.stat().st_size if file.is_file() else 0
    return count
