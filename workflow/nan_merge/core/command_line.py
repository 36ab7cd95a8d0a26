"""Run a script's `main`, report user errors, and parse arguments common to several scripts."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nan_merge.core.errors import UserError, as_user_errors


def parse_named_folders(arguments: Iterable[str]) -> dict[str, Path]:
    """Parse arguments `NAME=FOLDER` into {name: folder}."""
    return {name: Path(folder) for name, _, folder in (argument.partition("=") for argument in arguments)}


def command_line(main: Any) -> None:
    """Run a script's `main`; end a user error, or one of the system, with one message and exit code 1 instead of a traceback."""
    try:
        with as_user_errors():
            main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
