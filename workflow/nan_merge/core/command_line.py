"""Run a script's `main` and report user errors; parse arguments that scripts share."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nan_merge.core.errors import UserError


def parse_named_folders(words: Iterable[str]) -> dict[str, Path]:
    """Read `NAME=FOLDER` of every expert: {name: folder}."""
    return {name: Path(folder) for name, _, folder in (word.partition("=") for word in words)}


def command_line(main: Any) -> None:
    """Run a script's `main`; a user's mistake ends it with one message and exit code 1, not with a traceback."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except OSError as error:
        if error.errno in _MENDABLE:
            where = f" ({error.filename})" if error.filename else ""
            print(f"error: {error.strerror}{where}: {_MENDABLE[error.errno]}", file=sys.stderr)
            raise SystemExit(1) from None
        raise


_MENDABLE = {
    28: "free some space and run again; nothing half-written was kept",  # ENOSPC
    122: "raise the quota or delete something and run again; nothing half-written was kept",  # EDQUOT
    13: "make the folder writable for this user and run again",  # EACCES
    30: "the file system is read-only; choose another folder with --directory",  # EROFS
}
