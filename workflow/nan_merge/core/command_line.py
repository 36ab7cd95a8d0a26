"""Run a script's `main`, report user errors, and parse arguments common to several scripts."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nan_merge.core.errors import UserError


def parse_named_folders(arguments: Iterable[str]) -> dict[str, Path]:
    """Parse arguments `NAME=FOLDER` into {name: folder}."""
    return {name: Path(folder) for name, _, folder in (argument.partition("=") for argument in arguments)}


def command_line(main: Any) -> None:
    """Run a script's `main`; end a user error with one message and exit code 1 instead of a traceback."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except OSError as error:
        if error.strerror is None or isinstance(error, BrokenPipeError):
            raise
        path, remedy = f" ({error.filename})" if error.filename else "", _REMEDIES.get(error.errno or 0)
        print(f"error: {error.strerror}{path}{f': {remedy}' if remedy else ''}", file=sys.stderr)
        raise SystemExit(1) from None


_REMEDIES = {
    28: "free some space and run again; no partial result was kept",  # ENOSPC
    122: "raise the quota or delete something and run again; no partial result was kept",  # EDQUOT
    13: "inputs must be readable and the output's folder writable for this user; change the permissions and run again",  # EACCES
    30: "the file system is read-only; choose another folder with --directory",  # EROFS
}
