"""A fake GPU: tensors that report another device, with the restrictions of CUDA and the numbers of the CPU.

Under `FarDevice()`, whatever is made on or moved to `cuda` or `meta` is a `Far` tensor. It reports the device `meta`, for
which torch needs no driver, and holds a tensor of the host. As on a GPU, an operation on tensors
of both places is refused (numbers without an axis may mix), and so are `.numpy()` and kernels that only a CPU has.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

FAR = torch.device("meta")
HEAVY = {"mm", "addmm", "bmm", "baddbmm", "convolution", "linalg_solve_ex", "_linalg_solve_ex", "linalg_pinv", "_linalg_eigh"}
BOTH_PLACES = {"copy_", "_to_copy"}  # operations that move numbers between the two


class Far(torch.Tensor):
    """A tensor on the far device."""

    def __new__(cls, held: torch.Tensor) -> Any:
        like = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype, "device": FAR}
        return torch.Tensor._make_wrapper_subclass(cls, held.shape, **like)

    def __init__(self, held: torch.Tensor) -> None:
        self.held = held

    def tolist(self, /) -> Any:
        return self.cpu().tolist()  # as of a tensor on a GPU; torch refuses it for subclasses

    @classmethod
    def __torch_dispatch__(cls, op, types, args=(), kwargs=None):
        raise RuntimeError(f"{op}: far tensors work under FarDevice() only")


class FarDevice(TorchDispatchMode):
    """Run operations where their tensors are; `far` counts those on the far device, `near` are heavy ones on the host."""

    def __init__(self) -> None:
        super().__init__()
        self.far, self.near, self.calls = 0, set(), _Calls()

    def __enter__(self):
        self.calls.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.calls.__exit__(*error)

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        given = (args, kwargs or {})
        leaves, name = tree_leaves(given), op._schema.name.split("::")[1]
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        owners = {id(leaf.held): leaf for leaf in tensors if isinstance(leaf, Far)}
        home = [leaf for leaf in tensors if not isinstance(leaf, Far) and leaf.ndim]
        if owners and home and name not in BOTH_PLACES:
            raise RuntimeError(f"{op}: expected all tensors to be on the same device, found cuda and cpu")
        if owners and op.namespace == "mkldnn":
            raise RuntimeError(f"{op}: no such kernel on a GPU")
        if owners and name == "_fused_sdp_choice":
            return int(torch.nn.attention.SDPBackend.MATH.value)
        if not owners and name in HEAVY:
            self.near.add(name)
        places = [leaf.type for leaf in leaves if isinstance(leaf, torch.device)]
        far = places[0] == FAR.type if places else bool(owners)
        self.far += far
        args, kwargs = tree_map(_held, given)
        return tree_map(lambda out: owners[id(out)] if id(out) in owners else _sent(out, far), op(*args, **kwargs))


class _Calls(TorchFunctionMode):
    """Change calls that torch shows to no dispatch mode, or only once it has looked for a driver."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        args, kwargs = tree_map(_renamed, (args, kwargs or {}))
        if func is torch.tensor and kwargs.get("device") is not None:  # numbers of Python: made on the host, sent off
            return torch.tensor(*args, **{**kwargs, "device": None}).to(kwargs["device"])
        return func(*args, **kwargs)


def _renamed(leaf: Any) -> Any:
    return FAR if isinstance(leaf, str | torch.device) and str(leaf) == "cuda" else leaf


def _held(leaf: Any) -> Any:
    if isinstance(leaf, Far):
        return leaf.held
    return torch.device("cpu") if isinstance(leaf, torch.device) else leaf


def _sent(out: Any, far: bool) -> Any:
    return Far(out) if far and isinstance(out, torch.Tensor) else out
