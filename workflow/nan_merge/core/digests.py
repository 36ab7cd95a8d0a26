"""Digests of files."""

from __future__ import annotations

import hashlib
from pathlib import Path


def sha256(path: Path) -> str:
    """Return the SHA-256 of one file as 64 hexadecimal digits, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with open(path, "rb") as blocks:
        while block := blocks.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
