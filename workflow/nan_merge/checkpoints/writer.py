"""Write the tensors of a checkpoint to their final offsets, in any order, from any thread."""

from __future__ import annotations

import errno
import math
import mmap
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from xxhash import xxh3_128_digest, xxh3_128_hexdigest

from nan_merge.checkpoints.checkpoint import INDEX, SINGLE, module_of, safetensors_name
from nan_merge.checkpoints.safetensors_file import DTYPES, header_bytes
from nan_merge.core.errors import about
from nan_merge.core.files import write_json
from nan_merge.core.handles import PooledFile

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
        renamed: dict[str, list[str]] = {}  # a .bin and a .safetensors of one index can get one name
        for file, names in shards.items():
            renamed.setdefault(safetensors_name(file), []).extend(names)
        for file, names in renamed.items():
            header = header_bytes({name.removeprefix(module_of(file)): entries[name] for name in names})
            end, starts = len(header), {}
            for name in names:
                dtype, shape = entries[name]
                starts[name] = end
                end += math.prod(shape) * DTYPES[dtype].itemsize
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            self.files.append(_File(folder / file, end, free))
            self.files[-1].write(0, np.frombuffer(header, np.uint8))
            self.places |= {name: (self.files[-1], start) for name, start in starts.items()}
        self.folder, own = folder, {file: names for file, names in renamed.items() if not module_of(file)}
        if list(own) != [SINGLE]:
            weight_map = {name: file for file, names in own.items() for name in names}
            size = sum(file.size for file in self.files if file.path.parent == folder)
            write_json(folder / INDEX, {"metadata": {"total_size": size}, "weight_map": weight_map})

    def write(self, name: str, first: int, stored: np.ndarray) -> None:
        """Write numbers (n,), in the tensor's stored type, from its element `first` on."""
        file, start = self.places[name]
        file.write(start + first * stored.itemsize, stored.view(np.uint8))

    def close(self) -> None:
        """Close all files; unwritten ranges stay empty."""
        for file in self.files:
            file.close()

    def digests(self) -> dict[str, str]:
        """Return the `digest` of every file by its path, which all ranges of its tensors have been written to."""
        return {
            file.path.relative_to(self.folder).as_posix(): _joined(file.digests[window] for window in sorted(file.digests))
            for file in self.files
        }


def digest(file: Path) -> str:
    """Return the XXH3-128 of the XXH3-128 of every WINDOW of a file, as 32 hexadecimal digits."""
    with open(file, "rb") as stream, about(file):
        return _joined(xxh3_128_digest(window) for window in iter(lambda: stream.read(WINDOW), b""))


def _joined(digests: Iterable[bytes]) -> str:
    return xxh3_128_hexdigest(b"".join(digests))


class _File:
    """A file of known size, written window by window; a window is written once all of its bytes have arrived.

    Writes bypass the page cache where the file system supports it (O_DIRECT): a merge never reads its output, and copying
    it into the cache costs as much as merging it.
    """

    def __init__(self, path: Path, size: int, free: list[mmap.mmap]) -> None:
        flags, new = os.O_RDWR, os.O_CREAT | os.O_EXCL
        with about(path):
            try:
                os.close(os.open(path, flags | os.O_DIRECT | new, 0o666))
                flags |= os.O_DIRECT
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                path.unlink(missing_ok=True)
                os.close(os.open(path, flags | new, 0o666))
        self.path, self.size, self.lock, self.file = path, size, threading.Lock(), PooledFile(path, flags)
        with self.file.opened() as handle:
            os.posix_fallocate(handle, 0, size)  # fails at once on a full disk
        self.digests: dict[int, bytes] = {}  # window -> XXH3-128
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
        content, written = memoryview(memory)[:padded], 0
        with self.file.opened() as handle:
            while written < padded:
                written += os.pwrite(handle, content[written:], start + written)
        digest = xxh3_128_digest(content[:count])
        with self.lock:
            self.digests[window] = digest
            del self.open[window]
            self.free.append(memory)

    def close(self) -> None:
        """Truncate the file to its size and close it."""
        with self.file.opened() as handle:
            os.ftruncate(handle, self.size)
        self.file.close()
