"""Load torch on request, and check that a CUDA device exists; the only module of this package that imports torch."""

from __future__ import annotations

import re
from typing import Any

from nan_merge.core.errors import UserError


def torch_for(device: str) -> Any:
    """Return the module torch, which the `device` needs; raise a UserError where it is not installed."""
    try:
        import torch
    except ModuleNotFoundError:
        raise UserError(
            f"device {device!r}: needs the package torch, which is not installed here; run: pip install torch, or take the"
            " device cpu"
        ) from None
    return torch


def check_cuda(device: str) -> None:
    """Raise a UserError unless `device` is `cuda` or `cuda:N` and torch finds it on this machine."""
    if not re.fullmatch(r"cuda(:\d+)?", device):
        raise UserError(f"device {device!r}: expected cpu, cuda or cuda:N; correct `device:` of the config or --device")
    torch = torch_for(device)
    count = torch.cuda.device_count()
    if count <= int(device.partition(":")[2] or 0):
        raise UserError(
            f"device {device!r}: torch {torch.__version__} finds {count} CUDA devices here; set `device:` of the config"
            " (`scoring: device:` for scores) to cpu, or run on a machine with a GPU"
        )
