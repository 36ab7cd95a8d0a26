"""Build what a pickle of PyTorch holds without running any of it: tensors, containers and stand-ins. No torch.

Every class or function that a file names is replaced by a stand-in that takes anything and does nothing; the tensors of a
module are then collected from the stand-ins under the names that its state dict would give them.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from nan_merge.checkpoints import torch_archive
from nan_merge.checkpoints.safetensors_file import DTYPES, NAMES
from nan_merge.checkpoints.torch_archive import Storage, StridedTensor

STORAGES = {  # torch's name of a storage -> the type of its numbers
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16", "LongStorage": "I64",
    "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8", "BoolStorage": "BOOL",
    "UntypedStorage": "U8",
}  # fmt: skip
KINDS = {f"torch.{dtype}": name for dtype, name in NAMES.items()} | {"torch.bool": "BOOL"}
INERT: dict[str, Any] = {  # what a file may have besides: containers that run nothing
    "collections.OrderedDict": OrderedDict, "torch.Size": tuple,
    **{f"{home}.{kind.__name__}": kind for home in ("builtins", "__builtin__") for kind in (set, frozenset, list, dict, tuple)},
}  # fmt: skip


class Placeholder:
    """Stands in for an object of any class: takes what comes, keeps its `state`, and does nothing."""

    __slots__ = ("state",)
    state: dict[Any, Any]

    def __new__(cls, *_: Any, **__: Any) -> Placeholder:
        """Make an object with an empty state, whatever is given."""
        found = object.__new__(cls)
        found.state = {}
        return found

    def __init__(self, *_: Any, **__: Any) -> None:
        """Take anything."""

    def __call__(self, *_: Any, **__: Any) -> Placeholder:
        """Stand in for what a function would return."""
        return Placeholder()

    def __setstate__(self, state: Any) -> None:
        """Keep the attributes of the object."""
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.state.update(part)

    def append(self, *_: Any) -> None:
        """Take an item of what was a list, a set or a mapping."""

    extend = add = __setitem__ = append


class Unpickler(pickle._Unpickler):
    """Build nothing but tensors, containers and stand-ins; `storages` are filled by the reader of the file.

    It is Python's own, not that in C, which takes as much memory as a broken file asks for.
    """

    def __init__(self, stream: Any, storages: dict[str, Storage]) -> None:
        """Read the pickle that begins at the place of a stream."""
        super().__init__(stream)
        self.storages = storages
        self.classes: dict[str, type[Placeholder]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name of the file; nothing is imported, and no attribute looked up."""
        full = f"{module}.{name}"
        if full in INERT:
            return INERT[full]
        if name in STORAGES and module in ("torch", "torch.cuda", "torch.storage"):
            return STORAGES[name]
        if full in REBUILDS:
            return REBUILDS[full]
        if full not in self.classes:
            self.classes[full] = type(name.rpartition(".")[2], (Placeholder,), {"__slots__": ()})
        return KINDS.get(full, self.classes[full])

    def persistent_load(self, pid: Any) -> Any:
        """Return the storage that a file names, or the class that an old file describes."""
        if isinstance(pid, tuple) and pid[0] == "module":
            return pid[1]
        kind, dtype, key, _, count, *view = pid
        if kind != "storage" or dtype not in DTYPES or any(view):
            raise pickle.UnpicklingError("a storage of an unknown kind")
        return self.storages.setdefault(str(key), Storage(dtype, int(count)))


class Rebuild:
    """A function of torch that makes a tensor, as far as a reader needs it; a file cannot change it."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        """Stand for `make`."""
        self._make = make

    def __call__(self, *args: Any) -> Any:
        """Call it."""
        return self._make(*args)

    def __setstate__(self, state: Any) -> None:
        """Refuse a file that gives it a state."""
        raise pickle.UnpicklingError("a function with a state")


def _tensor(storage: Storage, offset: int, shape: Any, strides: Any, *_: Any) -> StridedTensor:
    return StridedTensor(storage.dtype, storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


def _typed(storage: Storage, offset: int, shape: Any, strides: Any, _: Any, __: Any, dtype: str, *___: Any) -> StridedTensor:
    return StridedTensor(dtype, storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


def _first(value: Any, *_: Any) -> Any:
    return value


def _made(rebuild: Any, _: Any, args: tuple[Any, ...], *__: Any) -> Any:
    return rebuild(*args) if isinstance(rebuild, Rebuild) else Placeholder()


def _object(kind: Any, *_: Any) -> Any:
    return kind() if isinstance(kind, type) and issubclass(kind, Placeholder) else Placeholder()


def _from_bytes(data: bytes) -> Any:
    return torch_archive.unpickle_bytes(bytes(data), Unpickler)


def _bytes(text: str, _: Any) -> bytes:
    return text.encode("latin1")


REBUILDS: dict[str, Rebuild] = {
    "torch._utils._rebuild_tensor": Rebuild(_tensor),
    "torch._utils._rebuild_tensor_v2": Rebuild(_tensor),
    "torch._utils._rebuild_tensor_v3": Rebuild(_typed),
    "torch._utils._rebuild_parameter": Rebuild(_first),
    "torch._utils._rebuild_parameter_with_state": Rebuild(_first),
    "torch.nn.parameter.Parameter": Rebuild(_first),
    "torch._tensor._rebuild_from_type_v2": Rebuild(_made),
    "torch.storage._load_from_bytes": Rebuild(_from_bytes),  # of tensors that Python's own pickle wrote
    "_codecs.encode": Rebuild(_bytes),  # how pickles of before Python 3 hold bytes
    "copyreg._reconstructor": Rebuild(_object),
    "copy_reg._reconstructor": Rebuild(_object),
}


def module_tensors(module: Any, name: str, kinds: dict[str, str]) -> Iterator[tuple[Any, Any]]:
    """Yield (name, tensor) of a stand-in for a torch module: its parameters, its lasting buffers, and those of its parts."""
    if not isinstance(module, Placeholder):
        raise ValueError(f"an object of type {type(module).__name__} where a module is expected")
    kinds[name] = type(module).__name__
    if name.count(".") > 100:
        raise ValueError("a module inside itself")
    stem, passing = f"{name}.".lstrip("."), module.state.get("_non_persistent_buffers_set") or ()
    for place, left_out in (("_parameters", ()), ("_buffers", passing)):
        for own, value in (module.state.get(place) or {}).items():
            if value is not None and own not in left_out:
                yield f"{stem}{own}", value
    for own, part in (module.state.get("_modules") or {}).items():
        if part is not None:
            yield from module_tensors(part, f"{stem}{own}", kinds)
