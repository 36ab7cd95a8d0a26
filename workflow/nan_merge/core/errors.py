"""The exception for mistakes that a user can correct, the words for errors of the system, and advice in terms of options."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from nan_merge.core.escape import visible

OPTIONS = (  # how messages of the library name a key of the config, and what takes its place on the command line
    (r"`merge: (\w+):`", r"`--\1`"),
    (r"`merge: (\w+): \[?([^`\]]+)\]?`", r"`--\1 \2`"),
    (r"\bmerge: (exclude|missing|vocabulary):", r"--\1:"),
    (r"^exclude: ", "--exclude: "),
    (r"correct `exclude` \(", "correct `--exclude` ("),
    (r"leave it out of the suite or set `zero_norm: drop`",
     "leave it out, or `--set coefficients.<rule>.zero_norm=drop` with the rule that `nan-merge methods METHOD` shows"),
    (r"average it with `exclude: <regex>`, or set `largest: (\w+)`",
     r"or set the hyper-parameters `exclude` or `largest` (\1) of the operator with `--set combine.<operator>.largest=\1`"),
    (r"; name `calibration:` too", "; only a suite of the workflow has it"),
    (r"state `examples`", "state `--examples NAME=N`"),
    (r"; name one with `--task`, or choose a method with `static: true`", "; choose another method or operator"),
    (r"choose a `dtype` with", "choose a `--dtype` with"),
    (r"correct `device:` of the config or --device", "correct `--device`"),
    (r"set `device:` of the config \(`scoring: device:` for scores\) to cpu", "choose `--device cpu`"),
    (r"`harness: chat_template: true` of the suite asks", "`--chat-template` asks"),
    (r"Add it to the base, or write `chat_template: false`", "Add it to the model, or leave out `--chat-template`"),
    (r"take `scoring: precision: bfloat16`, a device with more memory, or `scoring: device: cpu`",
     "take `--precision bfloat16`, a device with more memory, or `--device cpu`"),
    (r"see config/assets.yaml, or choose another `family:` in the suite", "give the folder of such a model"),
)  # fmt: skip

ARGUMENTS = (  # how such messages name an option, and what takes its place in a call from Python
    (r"--examples NAME=N( \.\.\.)?", "examples={NAME: N}"),
    (r"--set ([\w.<>]+)=([-+.\d]+|<number>)(?![\w.])", r'set={"\1": \2}'),
    (r"--set ([\w.<>]+)=([^\s`:;,]+)", r'set={"\1": "\2"}'),
    (r"--method ([\w+]+)(?= set=)", r'method="\1",'),
    (r"`--exclude ([^`]+)`", r"`exclude=[\1]`"),
    (r"`--(missing|vocabulary|device|dtype|compute) (\w+)`", r'`\1="\2"`'),
    (r"add --overwrite", "set overwrite=True"),
    (r"--export-mergekit\b", "export_mergekit"),
    (r"--output-adapter RANK", "output_adapter=RANK"),
    (r"--output-adapter\b", "output_adapter"),
    (r"--expert\b", "experts"),
    (r"--(base|method|set|output|overwrite|exclude|vocabulary|missing|dtype|device|threads|seed|examples)\b", r"\1"),
    (r"--(compute|rank|energy)\b", r"\1"),
    (r"--blas-threads\b", "blas_threads"),
)


def tell(text: str) -> None:
    """Print a message to stderr, with escapes (`visible`); a reader that has gone away is no reason to lose a merge."""
    with suppress(OSError):
        print(visible(text), file=sys.stderr, flush=True)


class UserError(Exception):
    """A mistake that the user can correct; the message names the problem, its place, expected and found values and a remedy.

    Names that others wrote stand in messages: their control characters are escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__(visible(message))


@contextmanager
def _in_words(table: Sequence[tuple[str, str]]) -> Iterator[None]:
    """Let UserErrors from inside have other words: pairs of a pattern and what takes its place."""
    try:
        yield
    except UserError as error:
        message = str(error)
        for pattern, words in table:
            message = re.sub(pattern, words, message)
        raise UserError(message).with_traceback(error.__traceback__) from error.__cause__


@contextmanager
def advice_for_options() -> Iterator[None]:
    """Let UserErrors from inside name options of the command line in place of keys of the config."""
    with _in_words(OPTIONS):
        yield


@contextmanager
def advice_for_arguments() -> Iterator[None]:
    """Let UserErrors from inside name arguments of a call from Python in place of keys and options."""
    with _in_words(OPTIONS + ARGUMENTS):
        yield


_NAMES = "expected {} there; correct the path"
_REMEDIES = {
    errno.ENOSPC: "free some space and run again",
    errno.EDQUOT: "raise the quota or delete something, and run again",
    errno.EFBIG: "the file system or `ulimit -f` allows no file of that size; choose another folder or raise the limit",
    errno.EACCES: "inputs must be readable and the output's folder writable for this user; change the permissions and run again",
    errno.EPERM: "this user may not do that there; change owner or permissions, or choose another folder",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EIO: "the disk or its connection fails; look at the system's log, copy the file elsewhere if it can be read, run again",
    errno.ESTALE: "the server of the file system has replaced or dropped the file; mount it again and run again",
    errno.ENAMETOOLONG: "shorten the name",
    errno.ENOTDIR: _NAMES.format("a folder, found a file"),
    errno.EISDIR: _NAMES.format("a file, found a folder"),
    errno.ELOOP: "its links lead in a circle; correct them",
    errno.EMFILE: "this process may open no more files; raise the limit (ulimit -n) and run again",
    errno.ENFILE: "the system may open no more files; close other programs and run again",
    errno.ENOMEM: "give it more memory, or use fewer --threads",
    errno.EAGAIN: "the system allows no more threads or processes (ulimit -u); use fewer --threads, or end other programs",
    errno.EBUSY: "it is in use, or a mount point; choose another folder",
    errno.ENOENT: "correct the path, or choose another folder",
    errno.ETIMEDOUT: "the server of the file system does not answer; run again when it does",
}
_OTHERS = {  # texts of errors of the system that are no OSError
    "can't start new thread": _REMEDIES[errno.EAGAIN],
    "Symlink loop": _REMEDIES[errno.ELOOP],
    "embedded null byte": "a name of a file or of a model holds the character NUL; correct it",
}


def explained(error: BaseException) -> str | None:
    """Return one line for an error of the system or of its limits: what, where and the way out; None for any other error."""
    if isinstance(error, MemoryError):
        return f"out of memory{f' ({error})' if str(error) else ''}: {_REMEDIES[errno.ENOMEM]}"
    if isinstance(error, RuntimeError | ValueError):
        return next((f"{error}: {remedy}" for text, remedy in _OTHERS.items() if text in str(error)), None)
    if not isinstance(error, OSError) or error.strerror is None or isinstance(error, BrokenPipeError):
        return None
    files = " -> ".join(str(file) for file in (error.filename, error.filename2) if file)
    remedy = _REMEDIES.get(error.errno or 0)
    return f"{error.strerror}{f' ({files})' if files else ''}{f': {remedy}' if remedy else ''}"


@contextmanager
def about(path: object) -> Iterator[None]:
    """Add a path to an OSError of the block that names none, such as one of a read from an open file."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def as_user_errors() -> Iterator[None]:
    """Turn an error of the system or of its limits into a UserError."""
    try:
        yield
    except (OSError, MemoryError, RuntimeError, ValueError) as error:
        if (message := explained(error)) is None:
            raise
        raise UserError(message) from error
