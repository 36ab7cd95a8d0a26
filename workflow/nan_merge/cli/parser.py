"""Parsers of one look: a help that fits a screen, with an example."""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from nan_merge.core.names import nearest

WIDTH, COLUMN = 100, 36  # of a help, and where the descriptions of its options begin


class Parser(argparse.ArgumentParser):
    """A parser that takes options by their whole names, and names an unknown one before anything else that is wrong."""

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse the words of a command line; a mistake in them ends it with exit code 2."""
        words = list(sys.argv[1:] if args is None else args)
        known = [option for option in self._option_string_actions if option.startswith("--")]
        for word in words[: words.index("--")] if "--" in words else words:
            option = word.partition("=")[0]
            if re.fullmatch(r"--?[A-Za-z][\w-]*", option) and option not in self._option_string_actions:
                hint = nearest("--" + option.lstrip("-"), known, f"{self.prog} --help lists all")
                self.error(f"unknown option {option}; {hint}")
        return super().parse_args(words, namespace)


def command_parser(name: str, description: str | None, example: str, usage: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of `nan-merge NAME`; options that are not given are absent from the result unless they have a default."""
    parser = Parser(
        f"nan-merge {name}".strip(),
        usage=usage,
        description="\n".join(textwrap.fill(line, WIDTH) for line in (description or "").splitlines()),
        epilog=f"example: {example}",
        argument_default=argparse.SUPPRESS,
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, width=WIDTH, max_help_position=COLUMN),
        add_help=False,
        allow_abbrev=False,
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
