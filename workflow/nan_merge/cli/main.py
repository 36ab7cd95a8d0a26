"""The entry point of `nan-merge`: find the subcommand, run it, and end with one message for whatever goes wrong."""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.metadata
import io
import os
import sys
from collections.abc import Sequence

from nan_merge.cli.parser import command_parser
from nan_merge.core.command_line import CLOSED, command_line
from nan_merge.core.names import nearest

ANYWHERE = {
    "merge": "merge models, in folders or on the hub, into one",
    "import-mergekit": "translate a mergekit config, and merge by it",
    "extract-adapter": "write a fine-tuned model as a LoRA adapter of its base",
    "methods": "list the methods and variants, or show one",
    "convert": "turn a CLIP or a LLaVA into that of another library, or back",
}
IN_A_CHECKOUT = {
    "evaluate": "score language models on benchmarks, and compare them",
    "export": "write scores for the model hub, Every Eval Ever or a leaderboard",
    "plan": "say what a run fetches, needs and takes",
    "lock": "pin assets: revision, sizes and SHA-256",
    "status": "show how the last run stands",
    "clean": "remove what killed jobs left half written",
    "archive": "write a finished run as one zip file for others",
    "verify": "check such a file: digests, tables from predictions, coefficients",
    "compare": "show two such files side by side",
}
HELP = """Merge fine-tuned models with norm-aware coefficients (NAN, arXiv 2505.16148) and other methods.

anywhere:
{}

in a checkout of the workflow:
{}"""
PACKAGES = {"open_clip": "open_clip_torch"}  # that are installed by another name
INTERRUPTED = 130  # exit code of a shell for SIGINT


def main(argv: Sequence[str]) -> None:
    """Run one subcommand; a mistake in the command line is SystemExit 2, one in its values a UserError."""
    name = argv[0] if argv else "--help"
    if name in IN_A_CHECKOUT:
        importlib.import_module("nan_merge.cli.checkout").main(name, argv[1:])
    elif name in ANYWHERE:
        importlib.import_module(f"nan_merge.cli.{name.replace('-', '_')}").main(argv[1:])
    else:
        lists = ["\n".join(f"  {each:17}{what}" for each, what in group.items()) for group in (ANYWHERE, IN_A_CHECKOUT)]
        parser = command_parser("", HELP.format(*lists), "nan-merge merge --help", usage="nan-merge COMMAND ... | --version")
        parser.add_argument("--version", action="version", version=f"nan-merge {version()}", help=argparse.SUPPRESS)
        parser.add_argument("command", metavar="COMMAND", help=argparse.SUPPRESS)  # the description lists them
        parser.parse_args([name])
        parser.error(f"unknown command '{name}'; {nearest(name, [*ANYWHERE, *IN_A_CHECKOUT])}")


def version() -> str:
    """Return the version of the installed package."""
    try:
        return importlib.metadata.version("nan-merge")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def run() -> None:
    """Run the command line and end the process: 0, 1 for an error of the user, 2 for a wrong command line."""
    gc.disable()  # a command makes few cycles, and collection over the objects of numba takes a tenth of a merge
    os._exit(_code())  # all is on disk, and the tear-down of numba takes a tenth of a second


def _code() -> int:
    """Run and return the exit code, with both streams flushed; any other error than a user's passes with its traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name of a file may be no text
    try:
        try:
            command_line(lambda: main(sys.argv[1:]))
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        except ModuleNotFoundError as error:
            if str(error.name).startswith("nan_merge"):
                raise
            message = f"error: {sys.argv[1]} needs the package {error.name}, which is not installed here"
            print(f"{message}; run: pip install {PACKAGES.get(str(error.name), error.name)}", file=sys.stderr)
            code = 1
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted; no partial result was kept", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of the output has gone, as in `nan-merge methods | head -1`
        return CLOSED
    return code
