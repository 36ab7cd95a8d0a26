"""Read pickled weight files of PyTorch (`pytorch_model.bin`, `*.pt`) without importing or running anything that they name."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nan_merge.checkpoints.safe_unpickler import Placeholder, Unpickler, module_tensors
from nan_merge.checkpoints.safetensors_file import SharedFile, Tensor, check_shape
from nan_merge.checkpoints.torch_archive import StridedTensor, unpickle_file
from nan_merge.core.errors import UserError
from nan_merge.core.handles import Stamp

WRAPPER = "state_dict"  # the key of the tensors in checkpoints of training programs


@dataclass
class ArrayTensor(Tensor):
    """A tensor whose numbers are an array (*shape), memory-mapped from a pickle or in memory."""

    values: np.ndarray

    def block(self, start: int, stop: int, buffer: np.ndarray | None = None) -> np.ndarray:
        """Read the elements `start` to `stop`, flattened in C order, as stored: (stop - start,)."""
        out = self.space(stop - start, buffer)
        if self.values.flags.c_contiguous:
            out[:] = self.values.reshape(-1)[start:stop]
        else:  # a transposed or otherwise strided tensor
            out[:] = self.values.flat[start:stop]
        return out


@dataclass
class MappedTensor(ArrayTensor):
    """A tensor of a pickle file, which is mapped only to find it and to gather strided numbers.

    A mapped page that the file has lost ends the process, so numbers that lie together are read, and for others the file is
    looked at first.
    """

    file: SharedFile
    name: str
    offset: int  # of the first byte

    def block(self, start: int, stop: int, buffer: np.ndarray | None = None) -> np.ndarray:
        """Read the elements `start` to `stop`, flattened in C order, as stored: (stop - start,)."""
        if not self.values.flags.c_contiguous:
            with self.file.opened() as handle:
                self.file.check(handle)
                return super().block(start, stop, buffer)
        out = self.space(stop - start, buffer)
        self.file.read(out.view(np.uint8), self.offset + start * out.itemsize, self.name)
        return out


def storage_key(tensor: Tensor) -> Hashable | None:
    """Return a key that is equal for tensors that share an array; None for other tensors."""
    if not isinstance(tensor, ArrayTensor) or not tensor.size:
        return None
    return tensor.values.__array_interface__["data"], tensor.values.strides, tensor.shape, tensor.dtype


def pickled_tensors(file: Path) -> dict[str, Tensor]:
    """Return the tensors of one state dict file by name, in file order; raise UserError for a module, as `pickled_model` else."""
    tensors, kinds = pickled_model(file)
    if kinds:
        raise UserError(
            f"{file}: holds code ({kinds['']}), which was not run; expected tensors only. Use the model's safetensors, or have"
            " the file saved again by someone you trust. Suites of the family open_clip read pickled image encoders"
        )
    return tensors


def pickled_model(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a pickled state dict or module by name, and the class names of a module's submodules by name.

    The file is memory-mapped; nothing that it names is imported or run (`safe_unpickler`).
    Raises UserError for a truncated or damaged file and for any other content.
    """
    entries: dict[str, Tensor] = {}
    kinds: dict[str, str] = {}
    shared = SharedFile(file, stamp=Stamp.of(file.stat()))
    try:
        root = unpickle_file(file, Unpickler)
        if isinstance(root, Mapping) and isinstance(root.get(WRAPPER), (Mapping, Placeholder)):
            root = root[WRAPPER]
        for name, value in root.items() if isinstance(root, Mapping) else module_tensors(root, "", kinds):
            if not isinstance(name, str) or not isinstance(value, StridedTensor):
                note = ", whose code was not run" if isinstance(value, Placeholder) else ""
                raise UserError(
                    f"{file}: {name!r} is an object of type {type(value).__name__}{note}; expected only tensors by name, or a"
                    " module of them; save only the model's state_dict"
                )
            check_shape(f"{file}: tensor '{name}'", value.dtype, value.shape)
            entries[name] = _tensor(shared, name, value)
    except (UserError, MemoryError, OSError):
        raise
    except Exception as error:  # a damaged file can raise any error
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise UserError(
            f"{file}: cannot be read ({reason}); it is truncated, damaged or no weight file; fetch it again"
        ) from None
    if not entries:
        raise UserError(f"{file}: holds an object of type {type(root).__name__} without tensors; expected a model")
    return entries, kinds


def _tensor(file: SharedFile, name: str, value: StridedTensor) -> ArrayTensor:
    values, start = value.array(), value.storage.start
    if start is None:
        return ArrayTensor(value.dtype, value.shape, values)
    return MappedTensor(value.dtype, value.shape, values, file, name, start + value.offset * values.itemsize)
