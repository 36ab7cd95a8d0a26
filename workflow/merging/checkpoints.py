"""Read and write the narrow waist: a folder of safetensors files plus config.json. No torch.

Tensors are read block by block at their offsets and never mapped or held whole, so memory does not grow with the
model. The header of every file is checked against the file's size before anything is believed.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from merging.provenance import publish
from merging.results import UserError, read_json

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
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies: file, safetensors type name, shape, and byte range counted from the file's start."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def size(self) -> int:
        """The number of elements."""
        return (self.stop - self.start) // DTYPES[self.dtype].itemsize


class Checkpoint:
    """A read-only folder of tensors: names in file order, shapes and types at once, values on request."""

    def __init__(self, path: Path | str) -> None:
        """Open a folder, or one safetensors file by itself (a head)."""
        path = Path(path)
        self.folder = path.parent if path.is_file() else path
        self.shards: dict[str, list[str]] = {}
        self.entries: dict[str, Entry] = {}
        for file in [path.name] if path.is_file() else self._files():
            header = read_header(self.folder / file)
            for name in sorted(header.keys() & self.entries.keys()):
                raise UserError(f"{self.folder / file}: tensor '{name}' lies in {self.entries[name].file} too; fetch it again")
            self.shards[file] = list(header)
            self.entries.update({name: Entry(file, *place) for name, place in header.items()})
        self._handles: dict[str, int] = {}

    def _files(self) -> list[str]:
        index = self.folder / INDEX
        if index.exists():
            record = read_json(index)
            places = record.get("weight_map") if isinstance(record, dict) else None
            if not isinstance(places, dict) or not all(isinstance(file, str) for file in places.values()):
                raise UserError(f"{index}: no index of shards; expected `weight_map`, a file for each tensor; fetch it again")
            files = sorted(set(places.values()))
            for file in files:
                if Path(file).name != file or not (self.folder / file).is_file():
                    raise UserError(f"{index} names the shard {file!r}, which is not in that folder; fetch it again")
                lacking = sorted({n for n, place in places.items() if place == file} - read_header(self.folder / file).keys())
                if lacking:
                    raise UserError(f"{index} names the tensor '{lacking[0]}' in {file}, which lacks it; fetch it again")
            return files
        if not (self.folder / SINGLE).is_file():
            raise UserError(f"{self.folder}: no checkpoint there; expected {SINGLE} or {INDEX}")
        return [SINGLE]

    @property
    def names(self) -> list[str]:
        """All tensor names, in the order of the files."""
        return list(self.entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of one tensor."""
        return self.entries[name].shape

    def is_float(self, name: str) -> bool:
        """Say whether a tensor holds floating-point numbers."""
        return self.entries[name].dtype in FLOATS

    def block(self, name: str, start: int, stop: int) -> np.ndarray:
        """Read the elements `start` to `stop` of one tensor, flattened in C order, as stored: (stop - start,)."""
        entry = self.entries[name]
        dtype = DTYPES[entry.dtype]
        if entry.file not in self._handles:
            self._handles[entry.file] = os.open(self.folder / entry.file, os.O_RDONLY)
        count = (stop - start) * dtype.itemsize
        data = os.pread(self._handles[entry.file], count, entry.start + start * dtype.itemsize)
        if len(data) != count:
            raise UserError(f"{self.folder / entry.file}: ends inside tensor '{name}'; fetch or make it again")
        return np.frombuffer(data, dtype)

    def read(self, name: str) -> np.ndarray:
        """Read one whole tensor as stored, into memory of its own: (*shape)."""
        entry = self.entries[name]
        return self.block(name, 0, entry.size).reshape(entry.shape).copy().copy()  # torch warns of read-only arrays

    def close(self) -> None:
        """Close the files that reading opened."""
        for handle in self._handles.values():
            os.close(handle)
        self._handles.clear()


def read_header(file: Path) -> dict[str, tuple[str, tuple[int, ...], int, int]]:
    """Read and check the header of one safetensors file: name -> (type, shape, start, stop), ordered by offset.

    Raises UserError for a header that is cut, is not JSON, names an unknown type, or whose offsets leave holes,
    overlap, disagree with a shape or leave the file.
    """
    size = file.stat().st_size
    with open(file, "rb") as stream:
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        if length > min(size - 8, 100_000_000):
            raise UserError(f"{file}: the header says {length} bytes, the file has {size}; it is cut or no safetensors")
        try:
            header = json.loads(stream.read(length))
            places = {name: _place(entry) for name, entry in header.items() if name != "__metadata__"}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{file}: its header is not a safetensors header ({error})") from None
    return dict(_placed(file, places, 8 + length, size))


def _place(entry: Mapping[str, Any]) -> tuple[str, tuple[int, ...], int, int]:
    start, stop = entry["data_offsets"]
    place = (str(entry["dtype"]), tuple(entry["shape"]), start, stop)
    if not all(type(number) is int and number >= 0 for number in (*place[1], start, stop)):
        raise ValueError(f"shape {list(place[1])} and offsets {[start, stop]} should be whole numbers from 0")
    return place


def _placed(
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
                f" {end} to {end + expected} inside {size - origin}; the file is broken, fetch it again"
            )
        end = stop
        yield name, (dtype, shape, origin + start, origin + stop)
    if origin + end != size:
        raise UserError(f"{file}: {size - origin - end} bytes behind the last tensor; the file is broken")


def header_bytes(entries: Mapping[str, tuple[str, tuple[int, ...]]]) -> bytes:
    """Write the header for tensors stored one behind the other in the given order, padded to 8 bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, (dtype, shape) in entries.items():
        stop = start + int(np.prod(shape, dtype=object)) * DTYPES[dtype].itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def write_tensors(file: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write arrays as one safetensors file, in the given order."""
    with open(file, "wb") as stream:
        stream.write(header_bytes({n: (NAMES[a.dtype], a.shape) for n, a in tensors.items()}))
        for array in tensors.values():
            stream.write(np.ascontiguousarray(array).tobytes())


def write_checkpoint(
    folder: Path, tensors: Mapping[str, np.ndarray], config: Mapping[str, Any] | None = None, copy_from: Path | None = None
) -> None:
    """Write a checkpoint folder, whole or not at all: one safetensors file, config.json, companions of `copy_from`."""
    with publish(folder) as part:
        part.mkdir()
        if copy_from is not None:
            copy_companions(copy_from, part)
        if config is not None:
            (part / "config.json").write_text(json.dumps(config, sort_keys=True, indent=1) + "\n", encoding="utf-8")
        write_tensors(part / SINGLE, tensors)


def copy_companions(source: Path, target: Path) -> None:
    """Copy what makes tensors a usable model: config, tokenizer, processor; no weights and no provenance."""
    for file in sorted(source.iterdir()):
        companion = file.suffix in (".json", ".txt", ".model") and not file.name.startswith(".")
        if file.is_file() and companion and file.name not in ("asset.json", "provenance.json", INDEX):
            shutil.copyfile(file, target / file.name)
