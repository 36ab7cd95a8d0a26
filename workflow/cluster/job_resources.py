"""Resources of jobs as functions that Snakemake calls: memory and run time grow with each attempt, memory with the inputs.

`set-resources` and `set-threads` of a profile or the command line override them.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from typing import Any


def memory(base: int, per_input: float = 0.0) -> Callable[..., int]:
    """Return a resource function: `base` MB and `per_input` MB for each MB of the inputs, times the attempt."""

    def mem_mb(wildcards: Any, input: Iterable[str], attempt: int) -> int:
        return attempt * (base + int(per_input * megabytes(input)) if per_input else base)

    return mem_mb


def minutes(base: int) -> Callable[..., int]:
    """Return a resource function: `base` minutes of run time, times the attempt."""

    def runtime(wildcards: Any, attempt: int) -> int:
        return attempt * base

    return runtime


def threads_for_models(wildcards: Any, input: Iterable[str]) -> int:
    """Return the threads that a merge or a measurement can use: one, and one more for every GB of its inputs, up to four.

    Threads do not change a byte of the result. Inputs that do not exist yet count nothing: Snakemake calls again when the
    job is due.
    """
    return min(4, 1 + megabytes(path for path in input if os.path.exists(path)) // 1000)


def megabytes(paths: Iterable[str]) -> int:
    """Return the size of files and of whole folders together, in MB, rounded up.

    Snakemake's own `input.size_mb` counts a folder as one block of the file system, and checkpoints are folders.
    A path that does not exist yet raises FileNotFoundError: Snakemake then calls again when it does.
    """
    return -(-sum(_bytes(os.fspath(path)) for path in paths) // 10**6)


@functools.cache  # the experts of a suite are inputs of every merge; a missing path is not remembered
def _bytes(path: str) -> int:
    if not os.path.isdir(path):
        return os.path.getsize(path)
    return sum(os.path.getsize(os.path.join(folder, file)) for folder, _, files in os.walk(path) for file in files)
