"""Write the tensors of a checkpoint to their final offsets, in any order, from any thread."""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from nan_merge.checkpoints.checkpoint import INDEX, SINGLE, safetensors_name
from nan_merge.checkpoints.safetensors_file import DTYPES, header_bytes
from nan_merge.core.files import write_json

WINDOW = 1 << 22  # bytes of one write


class Writer:
    """Allocate the files of one checkpoint, then write any range of any tensor."""

    def __init__(
        self, folder: Path, shards: Mapping[str, Sequence[str]], entries: Mapping[str, tuple[str, tuple[int, ...]]]
    ) -> None:
        """Allocate `shards` (file -> names) of `entries` (name -> safetensors type, shape); write an index for several files."""
        self.places: dict[str, tuple[_File, int]] = {}
        self.files: list[_File] = []
        free: list[mmap.mmap] = []  # unused windows, shared by all files
        shards = {safetensors_name(file): names for file, names in shards.items()}
        for file, names in shards.items():
            header = header_bytes({name: entries[name] for name in names})
            end, starts = len(header), {}
            for name in names:
                dtype, shape = entries[name]
                starts[name] = end
                end += int(np.prod(shape, dtype=object)) * DTYPES[dtype].itemsize
            self.files.append(_File(folder / file, end, free))
            self.files[-1].write(0, np.frombuffer(header, np.uint8))
            self.places |= {name: (self.files[-1], start) for name, start in starts.items()}
        if list(shards) != [SINGLE]:
            weight_map = {name: file for file, names in shards.items() for name in names}
            write_json(folder / INDEX, {"metadata": {"total_size": sum(f.size for f in self.files)}, "weight_map": weight_map})

    def write(self, name: str, first: int, stored: np.ndarray) -> None:
        """Write numbers (n,), in the tensor's stored type, from its element `first` on."""
        file, start = self.places[name]
        file.write(start + first * stored.itemsize, stored.view(np.uint8))

    def close(self) -> None:
        """Close all files; unwritten ranges stay empty."""
        for file in self.files:
            file.close()


class _File:
    """A file of known size, written window by window; a window is written once all of its bytes have arrived.

    Writes bypass the page cache where the file system supports it (O_DIRECT): a merge never reads its output, and copying
    it into the cache costs as much as merging it.
    """

    def __init__(self, path: Path, size: int, free: list[mmap.mmap]) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        try:
            self.handle = os.open(path, flags | os.O_DIRECT, 0o666)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            path.unlink(missing_ok=True)
            self.handle = os.open(path, flags, 0o666)
        self.path, self.size, self.lock = path, size, threading.Lock()
        os.posix_fallocate(self.handle, 0, size)  # fails at once on a full disk
        self.open: dict[int, tuple[mmap.mmap, list[int]]] = {}  # window -> (bytes, number of bytes received)
        self.free = free

    def write(self, offset: int, data: np.ndarray) -> None:
        """Put bytes (n,) at `offset`."""
        while len(data):
            window, at = divmod(offset, WINDOW)
            part = data[: WINDOW - at]
            with self.lock:
                if window not in self.open:
                    self.open[window] = self._memory(), [0]
                memory, filled = self.open[window]
            np.frombuffer(memory, np.uint8)[at : at + len(part)] = part
            with self.lock:
                filled[0] += len(part)
                whole = filled[0] == min(WINDOW, self.size - window * WINDOW)
            if whole:
                self._flush(window, memory)
            offset, data = offset + len(part), data[len(part) :]

    def _memory(self) -> mmap.mmap:
        try:
            return self.free.pop()
        except IndexError:
            return mmap.mmap(-1, WINDOW, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def _flush(self, window: int, memory: mmap.mmap) -> None:
        start = window * WINDOW
        count = min(WINDOW, self.size - start)
        padded = -(-count // mmap.PAGESIZE) * mmap.PAGESIZE  # O_DIRECT writes whole pages; `close` truncates the file
        written = 0
        while written < padded:
            written += os.pwrite(self.handle, memoryview(memory)[written:padded], start + written)
        with self.lock:
            del self.open[window]
            self.free.append(memory)

    def close(self) -> None:
        """Truncate the file to its size and close it."""
        os.ftruncate(self.handle, self.size)
        os.close(self.handle)
