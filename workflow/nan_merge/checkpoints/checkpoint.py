"""Read and write checkpoints: folders of weight files with config.json and companions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nan_merge.checkpoints.companions import copy_companions, module_files
from nan_merge.checkpoints.pickles import pickled_tensors
from nan_merge.checkpoints.safetensors_file import NAMES, Tensor, header_bytes, stored_tensors
from nan_merge.core.atomic import atomic_write
from nan_merge.core.errors import UserError
from nan_merge.core.files import read_json
from nan_merge.core.text import is_given

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLE, PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"  # read, never written
LONGEST = 1_000  # characters of the name of a tensor
WEIGHTS = (INDEX, SINGLE, PICKLE_INDEX, PICKLE)  # in order of preference


class Checkpoint:
    """A read-only folder of tensors: names, shapes and types are read at once, values on request.

    `entries` maps names to tensors in file order, `shards` file names to tensor names. Tensors of the sub-folders that
    modules.json of sentence-transformers names have the sub-folder before their names: `2_Dense/linear.weight`. A view of a
    checkpoint (`nan_merge.layouts.views`) has other tensors under the same names.
    """

    config: Mapping[str, Any] | None = None  # what config.json of the folder would hold, for a model without a folder
    adapter: Any = None  # the adapter that is folded into a base (`nan_merge.layouts.adapters.Adapter`)
    lacking: Sequence[str] = ()  # names of tensors that the index has and no file: libraries load such a model

    def __init__(self, path: Path | str) -> None:
        """Open a folder or a single safetensors file (a head)."""
        path = Path(path)
        self.folder = path.parent if path.is_file() else path
        self.shards: dict[str, list[str]] = {}
        self.entries: dict[str, Tensor] = {}
        indexed: dict[str, set[str]] = {path.name: set()} if path.is_file() else self._files()
        for file in indexed:
            tensors = {f"{module_of(file)}{name}": tensor for name, tensor in read_file(self.folder / file).items()}
            for name in sorted(tensors.keys() & self.entries.keys()):
                other = next(shard for shard, names in self.shards.items() if name in names)
                raise UserError(f"{self.folder / file}: tensor '{name}' is also in {other}; fetch it again")
            self.shards[file] = list(tensors)
            self.entries.update(tensors)
        self.lacking = sorted(set().union(*indexed.values()) - self.entries.keys())

    def _files(self) -> dict[str, set[str]]:
        """Return {weight file: names of its tensors by the index, if there is one}, modules in sub-folders last."""
        return self._own_files() | {file: set() for file in module_files(self.folder, (SINGLE, PICKLE))}

    def _own_files(self) -> dict[str, set[str]]:
        weights = next((file for file in WEIGHTS if is_given(self.folder / file)), None)
        if weights is None:
            raise UserError(
                f"{self.folder}: no checkpoint in this folder; expected {SINGLE} or {INDEX} (or {PICKLE}){_cached(self.folder)}"
            )
        if weights in (INDEX, PICKLE_INDEX):
            index = self.folder / weights
            record = read_json(index)
            places = record.get("weight_map") if isinstance(record, dict) else None
            if not isinstance(places, dict) or not all(isinstance(file, str) for file in places.values()):
                raise UserError(f"{index}: no index of shards; expected `weight_map`, a file for each tensor; fetch it again")
            indexed: dict[str, set[str]] = {file: set() for file in sorted(set(places.values()))}
            for name, file in places.items():
                indexed[file].add(name)
            for file in indexed:
                if Path(file).name != file or not is_given(self.folder / file):
                    raise UserError(f"{index} names the shard {file!r}, which is not in that folder; fetch it again")
            return indexed
        return {weights: set()}

    @property
    def names(self) -> list[str]:
        """All tensor names, in the order of the files."""
        return list(self.entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of one tensor."""
        return self.entries[name].shape

    def read(self, name: str) -> np.ndarray:
        """Read one whole tensor as stored into new memory: (*shape)."""
        entry = self.entries[name]
        return entry.block(0, entry.size).reshape(entry.shape)


def _cached(folder: Path) -> str:
    """Return the advice for a folder of the hub's cache, which holds its models further down; empty for any other folder."""
    kind, *parts = folder.resolve().name.split("--")
    if kind != "models" or not parts:
        return ""
    there = sorted(each.name for each in folder.glob("snapshots/*") if each.is_dir())
    inside = f"snapshots/{there[0]} in it" if there else "a folder below its snapshots/, of which there is none yet"
    return f". It is the cache of a hub's model: give {inside}, or the id {'/'.join(parts)}"


def module_of(file: str) -> str:
    """Return the sub-folder that a file of weights, or a tensor of it, belongs to, with the `/` at its end; "" for the root."""
    return file[: file.rfind("/") + 1]


def safetensors_name(file: str) -> str:
    """Return the safetensors name of a weight file: `pytorch_model.bin` -> `model.safetensors`."""
    if file.endswith(".safetensors"):
        return file
    return f"{module_of(file)}{file.removeprefix(module_of(file)).removeprefix('pytorch_').removesuffix('.bin')}.safetensors"


def read_file(path: Path) -> dict[str, Tensor]:
    """Return the tensors of one weight file (safetensors or a pickle `.bin`) by name, in file order.

    Raises UserError for a damaged file, and for a name of more than LONGEST characters, of which no model has one.
    """
    tensors = pickled_tensors(path) if path.suffix == ".bin" else stored_tensors(path)
    if longest := max((name for name in tensors if len(name) > LONGEST), key=len, default=""):
        raise UserError(
            f"{path}: the name of a tensor has {len(longest):,} characters, '{longest[:80]}...'; expected at most {LONGEST:,};"
            " the file is damaged, fetch it again"
        )
    return tensors


def write_tensors(file: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write arrays to one safetensors file in the given order."""
    with open(file, "wb") as stream:
        stream.write(header_bytes({n: (NAMES[a.dtype], a.shape) for n, a in tensors.items()}))
        for array in tensors.values():
            stream.write(np.ascontiguousarray(array).tobytes())


def write_checkpoint(
    folder: Path, tensors: Mapping[str, np.ndarray], config: Mapping[str, Any] | None = None, copy_from: Path | None = None
) -> None:
    """Write a checkpoint folder atomically: one safetensors file, config.json and the companions of `copy_from`."""
    with atomic_write(folder) as part:
        part.mkdir()
        if copy_from is not None:
            copy_companions(copy_from, part)
        if config is not None:
            (part / "config.json").write_text(json.dumps(config, sort_keys=True, indent=1) + "\n", encoding="utf-8")
        write_tensors(part / SINGLE, tensors)
