"""Unpickle objects of PyTorch without running code: tensors, containers and placeholders.

Every class or function named in a file becomes a placeholder that accepts any call and has no effect. The tensors of a
module are then collected from the placeholders under their state dict names.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from nan_merge.checkpoints import torch_archive
from nan_merge.checkpoints.safetensors_file import DTYPES, NAMES
from nan_merge.checkpoints.torch_archive import Sealed, Storage, StridedTensor

STORAGES = {  # storage class of torch -> safetensors type
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16", "LongStorage": "I64",
    "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8", "BoolStorage": "BOOL",
    "UntypedStorage": "U8",
}  # fmt: skip
KINDS = {f"torch.{dtype}": name for dtype, name in NAMES.items()} | {"torch.bool": "BOOL"}
INERT: dict[str, Any] = {  # other allowed names: containers, whose construction runs no code of the file
    "collections.OrderedDict": OrderedDict, "torch.Size": tuple,
    **{f"{home}.{kind.__name__}": kind for home in ("builtins", "__builtin__") for kind in (set, frozenset, list, dict, tuple)},
}  # fmt: skip

LONGEST = 1_000  # characters of the name of a class, and of a tensor
MOST = 100_000  # submodules, each counted for every place where it is


class Placeholder:
    """Replaces an object of any class: accepts any call without effect and keeps its `state`."""

    __slots__ = ("state",)
    state: dict[Any, Any]

    def __new__(cls, *_: Any, **__: Any) -> Placeholder:
        """Create a placeholder with an empty state; arguments are ignored."""
        placeholder = object.__new__(cls)
        placeholder.state = {}
        return placeholder

    def __call__(self, *_: Any, **__: Any) -> Placeholder:
        """Return a placeholder for the result of a function."""
        return Placeholder()

    def __setstate__(self, state: Any) -> None:
        """Keep the attributes of the pickled object."""
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.state.update(part)

    def append(self, *_: Any) -> None:
        """Ignore an item added to a list, set or mapping."""

    extend = add = __setitem__ = append


class _Whole:
    """A stream of `size` bytes that is not asked for more: a read allocates as much memory as it is asked for."""

    def __init__(self, stream: Any, size: int) -> None:
        self._stream, self._size, self.readline = stream, size, stream.readline

    def read(self, count: int) -> bytes:
        """Read some bytes."""
        if count > self._size:
            raise pickle.UnpicklingError(f"it claims {count:,} bytes of a file of {self._size:,}")
        return self._stream.read(count)


class Unpickler(pickle._Unpickler):
    """Build tensors, containers and placeholders only; the file's reader fills `storages` afterwards.

    The pure-Python unpickler is used: the C version allocates as much memory as a damaged file claims, and both do
    for an array of bytes, which no tensor is.
    """

    dispatch: ClassVar = {code: load for code, load in pickle._Unpickler.dispatch.items() if code != pickle.BYTEARRAY8[0]}

    def __init__(self, stream: Any, storages: dict[str, Storage], nested: int | None = None) -> None:
        """Read `stream`; pickles within it may have `nested` bytes together, by default as many as it has itself."""
        start, size = stream.tell(), stream.seek(0, io.SEEK_END)
        stream.seek(start)
        super().__init__(_Whole(stream, size))
        self.storages, self.nested = storages, size if nested is None else nested
        self.classes: dict[str, type[Placeholder]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return the replacement of a name in the file; nothing is imported and no attribute is looked up."""
        if len(module) + len(name) > LONGEST:  # it would be copied for each of its references
            raise pickle.UnpicklingError(f"a class name of {len(module) + len(name):,} characters")
        full = f"{module}.{name}"
        if full in INERT:
            return INERT[full]
        if name in STORAGES and module in ("torch", "torch.cuda", "torch.storage"):
            return STORAGES[name]
        if full == "torch.storage._load_from_bytes":  # tensors saved by plain `pickle`
            return Rebuild(self._load_nested)
        if full in REBUILDS:
            return REBUILDS[full]
        if full not in self.classes:
            self.classes[full] = type(name.rpartition(".")[2], (Placeholder,), {"__slots__": ()})
        return KINDS.get(full, self.classes[full])

    def _load_nested(self, data: bytes) -> Any:
        self.nested -= len(data)
        if self.nested < 0:
            raise pickle.UnpicklingError("pickles within it are read again and again")
        return torch_archive.unpickle_bytes(bytes(data), lambda inner, storages: Unpickler(inner, storages, nested=0))

    def persistent_load(self, pid: Any) -> Any:
        """Return the storage with a persistent id, or the class recorded by an old file."""
        if isinstance(pid, tuple) and pid[0] == "module":
            return pid[1]
        kind, dtype, key, _, count, *view = pid
        if kind != "storage" or dtype not in DTYPES or any(view):
            raise pickle.UnpicklingError("a storage of an unknown kind")
        return self.storages.setdefault(str(key), Storage(dtype, _number(count)))


class Rebuild(Sealed):
    """Replaces a function of torch that rebuilds tensors."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *args: Any) -> Any:
        """Call the wrapped function."""
        return self._make(*args)


def _tensor(storage: Storage, offset: int, shape: Any, strides: Any, *_: Any) -> StridedTensor:
    return _typed(storage, offset, shape, strides, None, None, storage.dtype)


def _typed(storage: Storage, offset: int, shape: Any, strides: Any, _: Any, __: Any, dtype: str, *___: Any) -> StridedTensor:
    return StridedTensor(dtype, storage, _number(offset), tuple(map(_number, shape)), tuple(map(_number, strides)))


def _number(value: Any) -> int:
    """Return a whole number; one of millions of digits would take minutes to multiply or to print."""
    number = int(value)
    if number.bit_length() > 64:
        raise pickle.UnpicklingError("a shape that is larger than any memory")
    return number


def _first(value: Any, *_: Any) -> Any:
    return value


def _made(rebuild: Any, _: Any, args: tuple[Any, ...], *__: Any) -> Any:
    return rebuild(*args) if isinstance(rebuild, Rebuild) else Placeholder()


def _object(kind: Any, *_: Any) -> Any:
    return kind() if isinstance(kind, type) and issubclass(kind, Placeholder) else Placeholder()


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
    "_codecs.encode": Rebuild(_bytes),  # bytes in pickles of Python 2
    "copyreg._reconstructor": Rebuild(_object),
    "copy_reg._reconstructor": Rebuild(_object),
}


def module_tensors(module: Any, name: str, kinds: dict[str, str]) -> Iterator[tuple[Any, Any]]:
    """Yield (name, tensor) of a placeholder for a torch module: parameters and persistent buffers, submodules included.

    `kinds` receives the class name of every submodule by name.
    """
    if not isinstance(module, Placeholder):
        raise ValueError(f"an object of type {type(module).__name__} where a module is expected")
    kinds[name] = type(module).__name__
    if name.count(".") > 100 or len(name) > LONGEST or len(kinds) > MOST:
        raise ValueError("a module inside itself")
    stem, transient = f"{name}.".lstrip("."), module.state.get("_non_persistent_buffers_set") or ()
    for attribute, excluded in (("_parameters", ()), ("_buffers", transient)):
        for own, value in (module.state.get(attribute) or {}).items():
            if value is not None and own not in excluded:
                yield f"{stem}{own}", value
    for own, part in (module.state.get("_modules") or {}).items():
        if part is not None:
            yield from module_tensors(part, f"{stem}{own}", kinds)
