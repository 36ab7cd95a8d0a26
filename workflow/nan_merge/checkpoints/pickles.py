"""Read the weight files that PyTorch pickles (`pytorch_model.bin`) without running what they hold; torch is loaded at use."""

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

WRAPPER = "state_dict"  # the key under which training programs keep the tensors
BITS = {1: "uint8", 2: "uint16"}  # types that NumPy lacks are viewed as bits of their size


@dataclass
class PickledTensor(Tensor):
    """A tensor of a pickle: `values` (*shape), numbers or their bits, are mapped from the file, or lie in memory where `in_memory`."""

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
    """Return what two names of one pickled tensor share: the place of its numbers; None for any other tensor."""
    if not isinstance(tensor, PickledTensor) or not tensor.size:
        return None
    return tensor.values.__array_interface__["data"], tensor.values.strides, tensor.shape, tensor.dtype


def pickled_tensors(file: Path) -> dict[str, Tensor]:
    """Return the tensors of one file by name, in its order.

    The file is mapped, not read; one in the format before PyTorch 1.6 cannot be mapped and is held in memory. Raises
    UserError for a file that is cut or broken, that holds code, or that holds anything but tensors.
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
    """Return the tensors of a state dict or of a whole module by name, and the class of every part of a module by name.

    The file is mapped, and nothing that it names is imported or run (`safe_unpickler`). Raises UserError for a file that is cut or broken, or that holds neither.
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
                    f"{file}: {name!r} is an object of type {type(value).__name__}; expected nothing but tensors by name, or a"
                    " module of them; save the model's state_dict alone"
                )
            entries[name] = PickledTensor(value.dtype, value.shape, value.array(), in_memory=False)
    except UserError:
        raise
    except Exception as error:  # on a broken file the reader raises whatever its words run into
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise UserError(f"{file}: cannot be read ({reason}); it is cut, broken or no weights; fetch it again") from None
    if not entries:
        raise UserError(f"{file}: holds an object of type {type(root).__name__} without tensors; expected a model")
    return entries, kinds


def _load(file: Path, mapped: bool) -> Any:
    import torch

    try:
        with warnings.catch_warnings(action="ignore"):
            return torch.load(file, map_location="cpu", mmap=mapped, weights_only=True)
    except Exception as error:  # on a broken file the reader raises whatever its words run into, OSError too
        code = re.search(r"(?:GLOBAL|Unsupported class|function|reduce for) +([\w.]+\.[\w.]+)", str(error))
        if code:
            raise UserError(
                f"{file}: holds code ({code[1]}), which was not run; expected tensors only. Use the model's safetensors, or"
                " have the file saved again by someone you trust; of image encoders of open_clip, a suite of the family open_clip"
                " reads the tensors out of whole pickled modules"
            ) from None
        reason = str(error).strip().rsplit("WeightsUnpickler error:", 1)[-1].strip().split("\n")[0].split(". ")[0][:200]
        raise UserError(
            f"{file}: cannot be read ({reason or type(error).__name__}); it is cut, broken or no weights; fetch it again"
        ) from None


def _tensors(file: Path, content: Mapping[Any, Any], mapped: bool) -> Iterator[tuple[str, PickledTensor]]:
    import torch

    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise UserError(
                f"{file}: {name!r} is an object of type {type(tensor).__name__}; expected nothing but tensors by name (or"
                f" under `{WRAPPER}`); save the model's state_dict alone"
            )
        dtype = {str(known): NAMES[known] for known in NAMES}.get(str(tensor.dtype).removeprefix("torch."))
        if dtype is None or tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise UserError(
                f"{file}: tensor '{name}' is {tensor.dtype} ({tensor.layout}, {tensor.device}); known are dense tensors of"
                f" the types {', '.join(DTYPES)}"
            )
        plain = tensor.detach()
        if DTYPES[dtype].type.__module__ != "numpy":
            plain = plain.view(getattr(torch, BITS[plain.element_size()]))
        yield name, PickledTensor(dtype, tuple(tensor.shape), plain.numpy(), in_memory=not mapped)
