"""Safetensors files: types, headers, and reading tensors by ranges of elements.

Every header is checked against the size of its file before use; a tensor is never read whole.
"""

from __future__ import annotations

import json
import math
import os
import struct
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from nan_merge.core.errors import UserError

DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    **{f"{k}{8 * n}": np.dtype(f"{k.lower()}{n}") for k in "IU" for n in (1, 2, 4, 8)},
    "BOOL": np.dtype(np.bool_),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
FLOATS = frozenset(name for name in DTYPES if name.startswith(("F", "BF")))


@dataclass
class Tensor:
    """A tensor that is read by ranges of elements; `dtype` is the safetensors name of its stored type."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def is_float(self) -> bool:
        """Whether the elements are floating-point numbers."""
        return self.dtype in FLOATS

    def block(self, start: int, stop: int, buffer: np.ndarray | None = None) -> np.ndarray:
        """Read the elements `start` to `stop`, flattened in C order, as stored: (stop - start,).

        `buffer` (bytes, uint8) may hold the result, to avoid an allocation in loops.
        """
        raise NotImplementedError

    def space(self, count: int, buffer: np.ndarray | None) -> np.ndarray:
        """Return an uninitialised array (count,) of the stored type, in the buffer if given."""
        size = count * DTYPES[self.dtype].itemsize
        return (np.empty(size, np.uint8) if buffer is None else buffer[:size]).view(DTYPES[self.dtype])


@dataclass
class RowSlice(Tensor):
    """Consecutive rows of a tensor, from its element `first` on."""

    whole: Tensor
    first: int = 0

    def block(self, start: int, stop: int, buffer: np.ndarray | None = None) -> np.ndarray:
        """Read the elements `start` to `stop`, flattened in C order, as stored: (stop - start,)."""
        return self.whole.block(self.first + start, self.first + stop, buffer)


class SharedFile:
    """A file that several threads read tensors from; opened at the first read."""

    def __init__(self, path: Path) -> None:
        self.path, self._handle, self._lock = path, -1, threading.Lock()

    def read(self, into: np.ndarray, offset: int, tensor: str) -> None:
        """Fill `into` (uint8) with bytes of `tensor` from `offset` on; raise UserError if the file has shrunk."""
        if self._handle < 0:
            with self._lock:
                if self._handle < 0:
                    self._handle = os.open(self.path, os.O_RDONLY)
        done = 0
        while done < len(into):  # one call reads at most 2 GiB
            count = os.preadv(self._handle, [into[done:].data], offset + done)
            if count == 0:
                raise UserError(f"{self.path}: ends inside tensor '{tensor}'; fetch or make it again")
            done += count

    def __del__(self) -> None:
        """Close the file if it was opened."""
        if self._handle >= 0:
            os.close(self._handle)


@dataclass
class SafetensorsTensor(Tensor):
    """A tensor at a byte offset from the start of a safetensors file."""

    name: str
    file: SharedFile
    offset: int

    def block(self, start: int, stop: int, buffer: np.ndarray | None = None) -> np.ndarray:
        """Read the elements `start` to `stop`, flattened in C order, as stored: (stop - start,)."""
        out = self.space(stop - start, buffer)
        self.file.read(out.view(np.uint8), self.offset + start * out.itemsize, self.name)
        return out


def stored_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of one safetensors file by name, in file order."""
    file = SharedFile(path)
    return {
        name: SafetensorsTensor(dtype, shape, name, file, start) for name, (dtype, shape, start, _) in read_header(path).items()
    }


def read_header(file: Path) -> dict[str, tuple[str, tuple[int, ...], int, int]]:
    """Read and check a safetensors header: name -> (type, shape, start, stop) in bytes, ordered by offset.

    Raises UserError for a truncated header, invalid JSON, an unknown type, and offsets with gaps, with overlaps, outside
    the file or not matching a shape.
    """
    size = file.stat().st_size
    with open(file, "rb") as stream:
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        if length > min(size - 8, 100_000_000):
            raise UserError(f"{file}: the header has {length} bytes, the file {size}; it is truncated or no safetensors file")
        try:
            header = json.loads(stream.read(length))
            places = {name: _parse_entry(entry) for name, entry in header.items() if name != "__metadata__"}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{file}: its header is not a safetensors header ({error})") from None
    return dict(_checked(file, places, 8 + length, size))


def _parse_entry(entry: Mapping[str, Any]) -> tuple[str, tuple[int, ...], int, int]:
    start, stop = entry["data_offsets"]
    place = (str(entry["dtype"]), tuple(entry["shape"]), start, stop)
    if not all(type(number) is int and number >= 0 for number in (*place[1], start, stop)):
        raise ValueError(f"shape {list(place[1])} and offsets {[start, stop]} should be whole numbers from 0")
    return place


def _checked(
    file: Path, places: Mapping[str, Any], origin: int, size: int
) -> Iterator[tuple[str, tuple[str, tuple[int, ...], int, int]]]:
    end = 0
    for name, place in sorted(places.items(), key=lambda item: (item[1][2], item[1][3])):
        dtype, shape, start, stop = place
        if dtype not in DTYPES:
            raise UserError(f"{file}: tensor '{name}' has the type {dtype}; known are {', '.join(DTYPES)}")
        expected = int(np.prod(shape, dtype=object)) * DTYPES[dtype].itemsize
        if start != end or stop - start != expected or origin + stop > size:
            raise UserError(
                f"{file}: tensor '{name}' claims bytes {start} to {stop} for {dtype} {list(shape)}; expected"
                f" {end} to {end + expected} inside {size - origin}; the file is damaged, fetch it again"
            )
        end = stop
        yield name, (dtype, shape, origin + start, origin + stop)
    if origin + end != size:
        raise UserError(f"{file}: {size - origin - end} bytes after the last tensor; the file is damaged, fetch it again")


def header_bytes(entries: Mapping[str, tuple[str, tuple[int, ...]]]) -> bytes:
    """Return the header for tensors stored consecutively in the given order, padded to 8 bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, (dtype, shape) in entries.items():
        stop = start + int(np.prod(shape, dtype=object)) * DTYPES[dtype].itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
