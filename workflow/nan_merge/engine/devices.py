"""Devices that operators run on: NumPy on the host, or torch on an accelerator, imported only for the latter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nan_merge.core.blocks import WORK_UNIT
from nan_merge.core.cuda import check_cuda, torch_for


@dataclass(frozen=True)
class Device:
    """The host: arrays stay where they are."""

    name: str = "cpu"
    step: int | None = None  # elements of each model in one piece; None: as many as fit the cache
    fused: bool = True  # whether kernels replace operators

    def to_device(self, values: np.ndarray) -> Any:
        """Move an array to the device."""
        return values

    def to_host(self, values: Any) -> np.ndarray:
        """Move an array back to the host."""
        return values


@dataclass(frozen=True)
class Torch(Device):
    """A device of torch: larger pieces, tensors instead of arrays."""

    step: int | None = WORK_UNIT
    fused: bool = False

    def to_device(self, values: np.ndarray) -> Any:
        """Move an array to the device, as a copy."""
        return torch_for(self.name).from_numpy(values).to(self.name, copy=True)

    def to_host(self, values: Any) -> np.ndarray:
        """Move a tensor back to the host, as an array."""
        return values.cpu().numpy()


CPU = Device()


def device(name: str) -> Device:
    """Return the device `cpu` (NumPy), `cuda`, `cuda:1`, ... or `torch` (torch on the host, for comparison).

    Raises UserError for an unknown device, for one that this machine does not have, and without torch for any but `cpu`.
    """
    if name == "cpu":
        return CPU
    if name == "torch":
        torch_for(name)
        return Torch("cpu")
    check_cuda(name)
    return Torch(name)
