"""Read pickled weight files of PyTorch (`pytorch_model.bin`) without running code in them; torch is imported on request."""

from __future__ import annotations

import re
import warnings
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nan_merge.checkpoints.safe_unpickler import Placeholder, Unpickler, module_tensors
from nan_merge.checkpoints.safetensors_file import DTYPES, NAMES, Tensor
from nan_merge.checkpoints.torch_archive import ZIP, StridedTensor, unpickle_file
from nan_merge.core.errors import UserError

WRAPPER = "state_dict"  # the key of the tensors in checkpoints of training programs
BITS = {1: "uint8", 2: "uint16"}  # element size in bytes -> integer type; types that NumPy lacks are viewed as integers


@dataclass
class PickledTensor(Tensor):
    """A tensor of a pickle; `values` (*shape) are its numbers or their bits, memory-mapped unless `in_memory`."""

    values: np.ndarray
    in_memory: bool

    def block(self, start: int, stop: int, buffer: np.ndarray | None = None) -> np.ndarray:
        """Read the elements `start` to `stop`, flattened in C order, as stored: (stop - start,)."""
        dtype = DTYPES[self.dtype]
        count = (stop - start) * dtype.itemsize
        out = (np.empty(count, np.uint8) if buffer is None else buffer[:count]).view(self.values.dtype)
        if self.values.flags.c_contiguous:
            out[:] = self.values.reshape(-1)[start:stop]
        else:  # a transposed or otherwise strided tensor
            out[:] = self.values.flat[start:stop]
        return out.view(dtype)


def storage_key(tensor: Tensor) -> Hashable | None:
    """Return a key that is equal for tensors that share memory in a pickle; None for other tensors."""
    if not isinstance(tensor, PickledTensor) or not tensor.size:
        return None
    return tensor.values.__array_interface__["data"], tensor.values.strides, tensor.shape, tensor.dtype


def pickled_tensors(file: Path) -> dict[str, Tensor]:
    """Return the tensors of one state dict file by name, in file order.

    The file is memory-mapped; the format before PyTorch 1.6 is read into memory instead.
    Raises UserError for a truncated or damaged file, for code and for objects other than tensors.
    """
    with open(file, "rb") as stream:
        mapped = stream.read(len(ZIP)) == ZIP
    content = _load(file, mapped)
    if isinstance(content, Mapping) and isinstance(content.get(WRAPPER), Mapping):
        content = content[WRAPPER]
    if not isinstance(content, Mapping):
        raise UserError(f"{file}: holds an object of type {type(content).__name__}; expected tensors by name")
    return dict(_tensors(file, content, mapped))


def pickled_model(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a pickled state dict or module by name, and the class names of a module's submodules by name.

    The file is memory-mapped; nothing that it names is imported or run (`safe_unpickler`).
    Raises UserError for a truncated or damaged file and for any other content.
    """
    entries: dict[str, Tensor] = {}
    kinds: dict[str, str] = {}
    try:
        root = unpickle_file(file, Unpickler)
        if isinstance(root, Mapping) and isinstance(root.get(WRAPPER), (Mapping, Placeholder)):
            root = root[WRAPPER]
        for name, value in root.items() if isinstance(root, Mapping) else module_tensors(root, "", kinds):
            if not isinstance(name, str) or not isinstance(value, StridedTensor):
                raise UserError(
                    f"{file}: {name!r} is an object of type {type(value).__name__}; expected only tensors by name, or a"
                    " module of them; save only the model's state_dict"
                )
            entries[name] = PickledTensor(value.dtype, value.shape, value.array(), in_memory=False)
    except UserError:
        raise
    except Exception as error:  # a damaged file can raise any error
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise UserError(
            f"{file}: cannot be read ({reason}); it is truncated, damaged or no weight file; fetch it again"
        ) from None
    if not entries:
        raise UserError(f"{file}: holds an object of type {type(root).__name__} without tensors; expected a model")
    return entries, kinds


def _load(file: Path, mapped: bool) -> Any:
    import torch

    try:
        with warnings.catch_warnings(action="ignore"):
            return torch.load(file, map_location="cpu", mmap=mapped, weights_only=True)
    except Exception as error:  # a damaged file can raise any error, OSError too
        code = re.search(r"(?:GLOBAL|Unsupported class|function|reduce for) +([\w.]+\.[\w.]+)", str(error))
        if code:
            raise UserError(
                f"{file}: holds code ({code[1]}), which was not run; expected tensors only. Use the model's safetensors, or"
                " have the file saved again by someone you trust. Suites of the family open_clip read pickled image encoders"
            ) from None
        reason = str(error).strip().rsplit("WeightsUnpickler error:", 1)[-1].strip().split("\n")[0].split(". ")[0][:200]
        raise UserError(
            f"{file}: cannot be read ({reason or type(error).__name__}); it is truncated, damaged or no weight file; fetch it"
            " again"
        ) from None


def _tensors(file: Path, content: Mapping[Any, Any], mapped: bool) -> Iterator[tuple[str, PickledTensor]]:
    import torch

    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise UserError(
                f"{file}: {name!r} is an object of type {type(tensor).__name__}; expected only tensors by name (or"
                f" under `{WRAPPER}`); save only the model's state_dict"
            )
        dtype = {str(known): NAMES[known] for known in NAMES}.get(str(tensor.dtype).removeprefix("torch."))
        if dtype is None or tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise UserError(
                f"{file}: tensor '{name}' is {tensor.dtype} ({tensor.layout}, {tensor.device}); expected a dense tensor of"
                f" one of the types {', '.join(DTYPES)}"
            )
        plain = tensor.detach()
        if DTYPES[dtype].type.__module__ != "numpy":
            plain = plain.view(getattr(torch, BITS[plain.element_size()]))
        yield name, PickledTensor(dtype, tuple(tensor.shape), plain.numpy(), in_memory=not mapped)
