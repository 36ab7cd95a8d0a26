"""Run a script's `main`, report user errors, and parse arguments common to several scripts."""

from __future__ import annotations

import atexit
import gc
import os
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from nan_merge.core.errors import UserError, about, as_user_errors

CLOSED = 141  # exit code of a shell for SIGPIPE


def parse_named_folders(arguments: Iterable[str]) -> dict[str, Path]:
    """Parse arguments `NAME=FOLDER` into {name: folder}."""
    return {name: Path(folder) for name, _, folder in (argument.partition("=") for argument in arguments)}


def command_line(main: Any) -> None:
    """Run a script's `main`; end a user error, or one of the system, with one message and exit code 1 instead of a traceback.

    A reader of the output that goes away ends it with CLOSED, without a message. Where `main` is that of the program itself
    (`__main__`), the process ends with it.
    """
    open_streams()
    is_program = main.__module__ == "__main__"
    if is_program:
        gc.freeze()  # what was imported stays, so it is not searched for garbage
        gc.enable()
    try:
        with as_user_errors():
            try:
                main()
            except SystemExit:  # after a help
                _flush()
                raise
            _flush()
            if is_program:
                _end()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python writes out once more at its end
        raise SystemExit(CLOSED) from None
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def _flush() -> None:
    with about("standard output"):
        sys.stdout.flush()


def _end() -> NoReturn:
    """End the process with exit code 0 without taking its modules apart: torch's take half a second of processor time."""
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as the interpreter does
    atexit._run_exitfuncs()
    _flush()
    os._exit(0)


def open_streams() -> None:
    """Open /dev/null for closed standard streams: a file of a model that got their number would hold what is printed."""
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        continue
    os.close(handle)
    sys.stdout = sys.stdout or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    sys.stderr = sys.stderr or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
