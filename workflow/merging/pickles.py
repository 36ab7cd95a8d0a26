"""Read the weight files that PyTorch pickles (`pytorch_model.bin`) without running what they hold. Needs torch, at use."""

from __future__ import annotations

import re
import warnings
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from merging.results import UserError
from merging.storage import DTYPES, NAMES, Tensor

ZIP = b"PK\x03\x04"  # what every file starts with that torch.save has written since version 1.6
WRAPPER = "state_dict"  # the key under which training programs keep the tensors
BITS = {1: "uint8", 2: "uint16"}  # types that NumPy lacks are viewed as bits of their size


@dataclass
class Mapped(Tensor):
    """A tensor of a pickle: `values` (*shape), numbers or their bits, are mapped from the file, or `held` in memory."""

    values: np.ndarray
    held: bool

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


def memory(tensor: Tensor) -> Hashable | None:
    """Return what two names of one pickled tensor share: the place of its numbers; None for any other tensor."""
    if not isinstance(tensor, Mapped) or not tensor.size:
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
                " have the file saved again by someone you trust"
            ) from None
        reason = str(error).strip().rsplit("WeightsUnpickler error:", 1)[-1].strip().split("\n")[0].split(". ")[0][:200]
        raise UserError(
            f"{file}: cannot be read ({reason or type(error).__name__}); it is cut, broken or no weights; fetch it again"
        ) from None


def _tensors(file: Path, content: Mapping[Any, Any], mapped: bool) -> Iterator[tuple[str, Mapped]]:
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
        yield name, Mapped(dtype, tuple(tensor.shape), plain.numpy(), held=not mapped)
