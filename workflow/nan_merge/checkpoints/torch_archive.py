"""Find pickle and numbers in the files of torch.save, and map the numbers; the pickle is left to an unpickler. No torch.

Read are zip archives, the format before PyTorch 1.6 and plain pickles.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from nan_merge.checkpoints.safetensors_file import DTYPES

ZIP = b"PK\x03\x04"  # what every file starts with that torch.save has written since version 1.6
MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file from before
LOCAL = 30  # bytes of a zip entry's own header before name and extra field


@dataclass
class Storage:
    """Numbers of one type, `count` of them; `data` are their bytes, mapped from the file once they are found."""

    dtype: str
    count: int
    data: np.ndarray | None = None

    def fill(self, whole: np.ndarray, start: int) -> int:
        """Take the bytes from `start` on, and return where they end; a file that ends before is a ValueError."""
        stop = start + self.count * DTYPES[self.dtype].itemsize
        if self.count < 0 or stop > len(whole):
            raise ValueError("the file ends inside a tensor")
        self.data = whole[start:stop]
        return stop


@dataclass(frozen=True)
class StridedTensor:
    """A tensor in a storage: offset and strides are counted in elements of its type."""

    dtype: str
    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self) -> np.ndarray:
        """Return the numbers (*shape), mapped; a tensor that leaves its storage is a ValueError."""
        dtype, data = DTYPES[self.dtype], self.storage.data
        steps = tuple(step * dtype.itemsize for step in self.strides)
        if data is None or min((*self.shape, *steps, self.offset), default=0) < 0:
            raise ValueError("a tensor leaves its storage")
        return np.ndarray(self.shape, dtype, data.data if data.size else b"", self.offset * dtype.itemsize, steps)


Unpickler = Callable[[Any, dict[str, Storage]], Any]  # makes what has a `load`, from a stream, and fills the storages


def unpickle_file(file: Path, unpickler: Unpickler) -> Any:
    """Return what a file holds, built by `unpickler`, with its storages mapped."""
    whole = np.memmap(file, np.uint8, "r")
    with open(file, "rb") as stream:
        if stream.read(len(ZIP)) == ZIP:
            return _read_zip(stream, whole, unpickler)
        stream.seek(0)
        return _read_legacy(stream, whole, unpickler)


def unpickle_bytes(data: bytes, unpickler: Unpickler) -> Any:
    """Return what a file inside a pickle holds; it is in the format before PyTorch 1.6."""
    return _read_legacy(io.BytesIO(data), np.frombuffer(data, np.uint8), unpickler)


def _read_zip(stream: BinaryIO, whole: np.ndarray, unpickler: Unpickler) -> Any:
    """Read an archive: `data.pkl`, and a member for each storage, none of them compressed."""
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
    """Return where the bytes of a member start and stop."""
    name, extra = struct.unpack("<HH", whole[info.header_offset + 26 : info.header_offset + LOCAL].tobytes())
    start = info.header_offset + LOCAL + name + extra
    if start + info.file_size > len(whole):
        raise ValueError("the file ends inside a member")
    return start, start + info.file_size


def _read_legacy(stream: Any, whole: np.ndarray, unpickler: Unpickler) -> Any:
    """Read pickles one behind the other: magic number, version, machine, content, keys; then the storages in their order.

    A file that does not begin with the magic number is a plain pickle.
    """
    storages: dict[str, Storage] = {}
    first = unpickler(stream, storages).load()
    if first != MAGIC:
        return first
    unpickler(stream, storages).load()  # version
    if not unpickler(stream, storages).load().get("little_endian", True):
        raise ValueError("its numbers are big-endian")
    content = unpickler(stream, storages).load()
    place = 0
    for number, key in enumerate(unpickler(stream, storages).load()):
        place = stream.tell() if number == 0 else place
        place = storages[str(key)].fill(whole, place + 8)  # behind their count
    return content
