"""Check the free space of a disk before a large write."""

from __future__ import annotations

import shutil
from pathlib import Path

from nan_merge.core.errors import UserError

MARGIN = 1 << 24  # bytes kept free on a disk


def check_space(folder: Path, needed: int, content: str, remedy: str) -> None:
    """Raise a UserError if the disk of `folder`, which need not exist yet, has less than `needed` bytes free.

    The message names the `content` that would be written and ends with the `remedy`.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed + MARGIN > free:
        raise UserError(f"{folder}: {content} needs {human(needed + MARGIN)}, the disk has {human(free)} free; {remedy}")


def human(count: int) -> str:
    """Return a number of bytes as text in MB or GB."""
    return f"{count / 1e9:,.2f} GB" if count >= 1e8 else f"{count / 1e6:,.2f} MB"
