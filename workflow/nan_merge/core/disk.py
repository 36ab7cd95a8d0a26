"""Ask whether a disk has room before something large is written to it. No torch."""

from __future__ import annotations

import shutil
from pathlib import Path

from nan_merge.core.errors import UserError

MARGIN = 1 << 24  # bytes that stay free on a disk


def check_space(folder: Path, needed: int, what: str, way_out: str) -> None:
    """Raise a UserError if the disk of a folder (which need not exist yet) has no room for `needed` bytes."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if needed + MARGIN > free:
        raise UserError(f"{folder}: {what} takes {human(needed + MARGIN)}, the disk has {human(free)} free; {way_out}")


def human(count: int) -> str:
    """Write a number of bytes in MB or GB."""
    return f"{count / 1e9:,.2f} GB" if count >= 1e8 else f"{count / 1e6:,.2f} MB"
