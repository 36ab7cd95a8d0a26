"""Read models of one layout and write the first one again: the cost of a merge without computation.

    python benchmarks/floor.py OUTPUT BASE EXPERT...

One thread a processor; each takes 4 MiB of a file, reads them of every model in blocks of 1 MiB and writes those of the
base, past the page cache where the file system can (O_DIRECT), then waits for the disk.
"""

import mmap
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

BLOCK, WINDOW = 1 << 20, 1 << 22


def main() -> None:
    """Copy."""
    output, *models = map(Path, sys.argv[1:])
    output.mkdir()
    windows = _windows(output, models)
    lock = threading.Lock()
    threads = [threading.Thread(target=work, args=(windows, lock)) for _ in os.sched_getaffinity(0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for file in output.iterdir():
        os.truncate(file, (models[0] / file.name).stat().st_size)
        handle = os.open(file, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def _windows(output: Path, models: list[Path]) -> Iterator[tuple[int, list[int], int, int]]:
    """Yield (handle to write, handles to read, offset, size) of every window of every file."""
    for file in sorted(models[0].glob("*.safetensors")):
        size = file.stat().st_size
        flags = os.O_WRONLY | os.O_CREAT
        try:
            out = os.open(output / file.name, flags | os.O_DIRECT)
        except OSError:
            out = os.open(output / file.name, flags)
        os.posix_fallocate(out, 0, size)
        inputs = [os.open(model / file.name, os.O_RDONLY) for model in models]
        for offset in range(0, size, WINDOW):
            yield out, inputs, offset, min(WINDOW, size - offset)


def work(windows: Iterator[tuple[int, list[int], int, int]], lock: threading.Lock) -> None:
    """Take windows until there are no more."""
    window, rest = (memoryview(mmap.mmap(-1, size)) for size in (WINDOW, BLOCK))
    while True:
        with lock:
            taken = next(windows, None)
        if taken is None:
            return
        out, inputs, offset, size = taken
        for handle in reversed(inputs):
            for start in range(0, size, BLOCK):
                into = window[start : start + BLOCK] if handle == inputs[0] else rest
                os.preadv(handle, [into[: size - start]], offset + start)
        padded = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE  # O_DIRECT writes whole pages; the rest is cut off at the end
        os.pwrite(out, window[:padded], offset)


if __name__ == "__main__":
    main()
