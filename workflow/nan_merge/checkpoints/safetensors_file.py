"""Safetensors files: types, headers, and reading tensors by ranges of elements.

Every header is checked against the size of its file before use; a tensor is never read whole.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from nan_merge.core.errors import UserError, about
from nan_merge.core.handles import PooledFile, Stamp

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
MOST_DIMENSIONS = 63  # one less than an array of NumPy can have: the models are stacked
MOST_NESTED = 100  # levels of brackets in the entry of a tensor; the safetensors library takes a few more
Place = tuple[str, tuple[int, ...], int, int]  # type, shape, start, stop
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


class SharedFile(PooledFile):
    """A file that several threads read tensors from."""

    def read(self, into: np.ndarray, offset: int, tensor: str) -> None:
        """Fill `into` (uint8) with bytes of `tensor` from `offset` on; raise UserError if the file has shrunk."""
        with self.opened() as handle:
            done = 0
            while done < len(into):  # one call reads at most 2 GiB
                count = os.preadv(handle, [into[done:].data], offset + done)
                if count == 0:
                    raise UserError(f"{self.path}: ends inside tensor '{tensor}'; fetch or make it again")
                done += count


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
    with open(path, "rb") as stream:
        file = SharedFile(path, stamp=Stamp.of(os.fstat(stream.fileno())))
        places = _read_header(path, stream)
    return {name: SafetensorsTensor(dtype, shape, name, file, start) for name, (dtype, shape, start, _) in places.items()}


def read_header(file: Path) -> dict[str, Place]:
    """Read and check a safetensors header: name -> (type, shape, start, stop) in bytes, ordered by offset.

    Raises UserError for a truncated header, invalid JSON, an unknown type, and offsets with gaps, with overlaps, outside
    the file or not matching a shape: for whatever the safetensors library refuses, and for a name that is there twice.
    """
    with open(file, "rb") as stream:
        return _read_header(file, stream)


def _read_header(file: Path, stream: BinaryIO) -> dict[str, Place]:
    size = os.fstat(stream.fileno()).st_size
    with about(file):
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        if length > min(size - 8, 100_000_000):
            raise UserError(f"{file}: the header has {length} bytes, the file {size}; it is truncated or no safetensors file")
        text = stream.read(length)
    try:
        header = _parse_header(text)
        places = {name: _parse_entry(entry) for name, entry in header.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{file}: its header is not a safetensors header ({error})") from None
    return dict(_checked(file, places, 8 + length, size))


def _parse_header(text: bytes) -> dict[str, Any]:
    """Read JSON as the safetensors library does: UTF-8, no name twice, no number that JSON lacks, metadata of words only."""
    header = json.loads(text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_number, parse_int=_whole)
    if b"\\u" in text:
        json.dumps(header, ensure_ascii=False).encode("utf-8")  # half of a surrogate pair is no text
    metadata = header.get("__metadata__")
    if metadata is not None and not (isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())):
        raise ValueError("`__metadata__` should be words by name")
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"'{name[:80]}' is there twice")
        found[name] = value
    return found


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def _whole(text: str) -> int:
    if text == "-0" or len(text) > 20:
        raise ValueError(f"{text[:30]} should be a whole number from 0")
    return int(text)


def _parse_entry(entry: Mapping[str, Any]) -> Place:
    start, stop = entry["data_offsets"]
    if len(entry) > 3 and _depth(entry) > MOST_NESTED:
        raise ValueError(f"more than {MOST_NESTED} levels of brackets")
    place = (str(entry["dtype"]), tuple(entry["shape"]), start, stop)
    if not isinstance(entry["shape"], list) or not all(type(n) is int and n >= 0 for n in (*place[1], start, stop)):
        raise ValueError(f"shape {list(place[1])} and offsets {[start, stop]} should be whole numbers from 0")
    return place


def _depth(value: Any) -> int:
    """Return the number of levels of brackets of a value of JSON."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(_depth, inner), default=0)


def _checked(file: Path, places: Mapping[str, Place], origin: int, size: int) -> Iterator[tuple[str, Place]]:
    end = 0
    for name, place in sorted(places.items(), key=lambda item: (item[1][2], item[1][3])):
        dtype, shape, start, stop = place
        if dtype not in DTYPES:
            raise UserError(f"{file}: tensor '{name}' has the type {dtype}; known are {', '.join(DTYPES)}")
        check_shape(f"{file}: tensor '{name}'", dtype, shape)
        expected = math.prod(shape) * DTYPES[dtype].itemsize
        if start != end or stop - start != expected or origin + stop > size:
            raise UserError(
                f"{file}: tensor '{name}' claims bytes {start} to {stop} for {dtype} {list(shape)}; expected"
                f" {end} to {end + expected} inside {size - origin}; the file is damaged, fetch it again"
            )
        end = stop
        yield name, (dtype, shape, origin + start, origin + stop)
    if origin + end != size:
        raise UserError(f"{file}: {size - origin - end} bytes after the last tensor; the file is damaged, fetch it again")


def check_shape(tensor: str, dtype: str, shape: Sequence[int]) -> None:
    """Raise a UserError for a shape that no array can have, also one without elements: too many or too large dimensions."""
    if len(shape) > MOST_DIMENSIONS:
        raise UserError(f"{tensor} has {len(shape)} dimensions; expected at most {MOST_DIMENSIONS}")
    if math.prod(filter(None, shape)) * DTYPES[dtype].itemsize >= 1 << 63:
        raise UserError(f"{tensor} has the shape {list(shape)}, which is larger than any memory; the file is damaged")


def header_bytes(entries: Mapping[str, tuple[str, tuple[int, ...]]]) -> bytes:
    """Return the header for tensors stored consecutively in the given order, padded to 8 bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, (dtype, shape) in entries.items():
        stop = start + math.prod(shape) * DTYPES[dtype].itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
