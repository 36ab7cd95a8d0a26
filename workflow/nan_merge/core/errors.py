"""The exception for mistakes that a user can correct, and the words of its advice for users of the command line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

OPTIONS = (  # how messages of the library name a key of the config, and what takes its place on the command line
    (r"`merge: (\w+):`", r"`--\1`"),
    (r"`merge: (\w+): (\w+)`", r"`--\1 \2`"),
    (r"\bmerge: (exclude|missing|vocabulary):", r"--\1:"),
    (r"^exclude: ", "--exclude: "),
    (r"correct `exclude` \(", "correct `--exclude` ("),
    (r"leave it out of the suite or set `zero_norm: drop`", "leave it out, or choose `--set coefficients.nan.zero_norm=drop`"),
    (r"average it with `exclude: <regex>`, or set `largest: (\w+)`",
     r"or set the hyper-parameters `exclude` or `largest` (\1) of the operator with `--set combine.<operator>.largest=\1`"),
    (r"; name `calibration:` too", "; only a suite of the workflow has it"),
    (r"state `examples`", "state `--examples NAME=N`"),
)  # fmt: skip


class UserError(Exception):
    """A mistake that the user can correct; the message names the problem, its place, expected and found values and a remedy."""


@contextmanager
def advice_for_options() -> Iterator[None]:
    """Let UserErrors from inside name options of the command line in place of keys of the config."""
    try:
        yield
    except UserError as error:
        message = str(error)
        for key, option in OPTIONS:
            message = re.sub(key, option, message)
        raise UserError(message).with_traceback(error.__traceback__) from error.__cause__
