"""Say how large the inputs of a job are, for the memory and the run time that profiles/default asks for. No torch."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable


def megabytes(paths: Iterable[str]) -> int:
    """Return the size of files and of whole folders together, in MB, rounded up.

    Snakemake's own `input.size_mb` counts a folder as one block of the file system, and checkpoints are folders.
    A path that is not there yet raises FileNotFoundError: Snakemake then asks again when it is.
    """
    return -(-sum(_bytes(os.fspath(path)) for path in paths) // 10**6)


def threads(models: Iterable[str]) -> int:
    """Return how many threads a merge or a measure of models can use: one, and one more for every GB of them, up to four.

    With less there is nothing to share out, and another job can have the core. What is not there yet counts nothing:
    Snakemake asks again when the job is due.
    """
    return min(4, 1 + megabytes(path for path in models if os.path.exists(path)) // 1000)


@functools.cache  # the experts of a suite are inputs of every merge; a missing path is not remembered
def _bytes(path: str) -> int:
    if not os.path.isdir(path):
        return os.path.getsize(path)
    return sum(os.path.getsize(os.path.join(folder, file)) for folder, _, files in os.walk(path) for file in files)
