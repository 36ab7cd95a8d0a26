"""Versions of Python and of the packages that results depend on."""

from __future__ import annotations

import importlib.metadata
import platform

PACKAGES = (
    "numpy", "numba", "scipy", "torch", "torchvision", "transformers", "open_clip_torch", "tokenizers",
    "safetensors", "snakemake", "lm_eval", "vllm", "pillow",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Return the machine type and the versions of Python and of all installed PACKAGES."""
    installed = {"python": platform.python_version(), "machine": platform.machine()}
    for package in PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed
