"""Parsers of one look: a help that fits a screen, with an example."""

from __future__ import annotations

import argparse
import textwrap
from functools import partial
from pathlib import Path

WIDTH, COLUMN = 100, 36  # of a help, and where the descriptions of its options begin


def command_parser(name: str, description: str | None, example: str, usage: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of `nan-merge NAME`; options that are not given are absent from the result unless they have a default."""
    parser = argparse.ArgumentParser(
        f"nan-merge {name}".strip(),
        usage=usage,
        description="\n".join(textwrap.fill(line, WIDTH) for line in (description or "").splitlines()),
        epilog=f"example: {example}",
        argument_default=argparse.SUPPRESS,
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, width=WIDTH, max_help_position=COLUMN),
        add_help=False,
    )
    parser.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)  # whoever reads it knows it
    return parser


def natural(text: str, least: int = 0) -> int:
    """Read a whole number from 0, or from another least one."""
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"expected a whole number from {least}, found {text}")
    return int(text)


positive = partial(natural, least=1)


def number_by_name(text: str) -> tuple[str, int]:
    """Read `NAME=N`, N a whole number from 1."""
    name, _, number = text.rpartition("=")
    if not name:
        raise argparse.ArgumentTypeError(f"expected NAME=NUMBER, found {text}")
    return name, positive(number)


def folder_by_name(text: str) -> tuple[str, Path]:
    """Read `NAME=FOLDER`."""
    name, _, folder = text.partition("=")
    if not name or not folder:
        raise argparse.ArgumentTypeError(f"expected NAME=FOLDER, found {text}")
    return name, Path(folder).expanduser()
