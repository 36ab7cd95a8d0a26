"""Where words are computed: NumPy on the host, or torch on an accelerator. Torch is imported only for the latter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nan_merge.core.blocks import WORK_UNIT
from nan_merge.core.cuda import check_cuda


@dataclass(frozen=True)
class Device:
    """A place to compute on: how arrays get there, how they come back, how many elements go at once."""

    name: str = "cpu"
    step: int | None = None  # elements of each model at once
    fused: bool = True  # kernels may stand in for words

    def up(self, values: np.ndarray) -> Any:
        """Move an array to the device."""
        return values

    def down(self, values: Any) -> np.ndarray:
        """Bring an array back."""
        return values


@dataclass(frozen=True)
class Torch(Device):
    """A device of torch: larger steps, tensors instead of arrays."""

    step: int | None = WORK_UNIT
    fused: bool = False

    def up(self, values: np.ndarray) -> Any:
        """Move an array to the device, as a copy."""
        import torch

        return torch.from_numpy(values).to(self.name, copy=True)

    def down(self, values: Any) -> np.ndarray:
        """Bring a tensor back."""
        return values.cpu().numpy()


CPU = Device()


def device(name: str) -> Device:
    """Return the device `cpu` (NumPy), `cuda`, `cuda:1`, ... or `torch` (torch on the host, for comparison).

    Raises UserError for a device that this machine does not have.
    """
    if name == "cpu":
        return CPU
    if name == "torch":
        return Torch("cpu")
    check_cuda(name)
    return Torch(name)
