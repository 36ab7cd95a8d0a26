"""Locate the pickle and the memory-mapped storages in files of torch.save; the pickle is read by an unpickler.

Supported are zip archives, the format before PyTorch 1.6 and plain pickles.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from nan_merge.checkpoints.safetensors_file import DTYPES

ZIP = b"PK\x03\x04"  # first bytes of files of torch.save since PyTorch 1.6
MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of an older file
LOCAL = 30  # bytes of a zip local file header before name and extra field


class Sealed:
    """An object whose attributes a pickle cannot set."""

    def __setstate__(self, state: Any) -> None:
        """Refuse any state from a file."""
        raise pickle.UnpicklingError(f"a {type(self).__name__} with a state")


@dataclass
class Storage(Sealed):
    """`count` numbers of one type; `data` are their bytes, memory-mapped by `fill` from `start` of the file on.

    `start` is None for a storage that lies in memory.
    """

    dtype: str
    count: int
    data: np.ndarray | None = None
    start: int | None = None

    def fill(self, whole: np.ndarray, start: int) -> int:
        """Map the bytes from `start` on and return their end; raise ValueError if the file ends before it."""
        stop = start + self.count * DTYPES[self.dtype].itemsize
        if self.count < 0 or stop > len(whole):
            raise ValueError("the file ends inside a tensor")
        self.data, self.start = whole[start:stop], start if isinstance(whole, np.memmap) else None
        return stop


@dataclass(frozen=True)
class StridedTensor(Sealed):
    """A tensor in a storage; offset and strides are counted in elements."""

    dtype: str
    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self) -> np.ndarray:
        """Return the memory-mapped array (*shape); raise ValueError for a tensor outside its storage."""
        dtype, data = DTYPES[self.dtype], self.storage.data
        steps = tuple(step * dtype.itemsize for step in self.strides)
        if data is None or min((*self.shape, *steps, self.offset), default=0) < 0:
            raise ValueError("a tensor is outside its storage")
        return np.ndarray(self.shape, dtype, data.data if data.size else b"", self.offset * dtype.itemsize, steps)


Unpickler = Callable[[Any, dict[str, Storage]], Any]  # (stream, storages) -> object with `load`


def unpickle_file(file: Path, unpickler: Unpickler) -> Any:
    """Return the content of a file, built by `unpickler`, with memory-mapped storages."""
    whole = np.memmap(file, np.uint8, "r")
    with open(file, "rb") as stream:
        if stream.read(len(ZIP)) == ZIP:
            return _read_zip(stream, whole, unpickler)
        stream.seek(0)
        return _read_legacy(stream, whole, unpickler)


def unpickle_bytes(data: bytes, unpickler: Unpickler) -> Any:
    """Return the content of a file embedded in a pickle, in the format before PyTorch 1.6."""
    return _read_legacy(io.BytesIO(data), np.frombuffer(data, np.uint8), unpickler)


def _read_zip(stream: BinaryIO, whole: np.ndarray, unpickler: Unpickler) -> Any:
    """Read a zip archive: `data.pkl` and one uncompressed member for each storage."""
    with zipfile.ZipFile(stream) as archive:
        members = {info.filename.partition("/")[2]: info for info in archive.infolist()}
    if "constants.pkl" in members:
        raise ValueError("it is a TorchScript program, not a model of torch.save")
    if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
        raise ValueError("its members are compressed")
    places = {name: _member_range(info, whole) for name, info in members.items()}
    if "byteorder" in places and bytes(whole[slice(*places["byteorder"])]) != b"little":
        raise ValueError("its numbers are big-endian")
    storages: dict[str, Storage] = {}
    start, stop = places["data.pkl"]
    content = unpickler(io.BytesIO(whole[start:stop].tobytes()), storages).load()
    for key, storage in storages.items():
        start, stop = places[f"data/{key}"]
        storage.fill(whole[:stop], start)
    return content


def _member_range(info: zipfile.ZipInfo, whole: np.ndarray) -> tuple[int, int]:
    """Return (start, stop) of the bytes of an archive member."""
    name, extra = struct.unpack("<HH", whole[info.header_offset + 26 : info.header_offset + LOCAL].tobytes())
    start = info.header_offset + LOCAL + name + extra
    if start + info.file_size > len(whole):
        raise ValueError("the file ends inside a member")
    return start, start + info.file_size


def _read_legacy(stream: Any, whole: np.ndarray, unpickler: Unpickler) -> Any:
    """Read a plain pickle, or pickles (magic number, version, system, content, storage keys), then the storages in key order."""
    storages: dict[str, Storage] = {}
    first = unpickler(stream, storages).load()
    if first != MAGIC:
        return first
    unpickler(stream, storages).load()  # version
    if not unpickler(stream, storages).load().get("little_endian", True):
        raise ValueError("its numbers are big-endian")
    content = unpickler(stream, storages).load()
    keys = unpickler(stream, storages).load()
    position = stream.tell()
    for key in keys:
        position = storages[str(key)].fill(whole, position + 8)  # 8 bytes hold the count
    return content
