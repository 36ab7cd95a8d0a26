"""Versions of Python and of the packages that results depend on."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable, Mapping
from typing import Any

PACKAGES = (
    "numpy", "numba", "scipy", "torch", "torchvision", "transformers", "open_clip_torch", "tokenizers",
    "safetensors", "snakemake", "lm_eval", "vllm", "pillow", "sentence-transformers",
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


def recorded_versions(records: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return what records of results state as `versions` in their provenance, several of one package joined by `, `."""
    found: dict[str, set[str]] = {}
    for record in records:
        for name, version in record.get("provenance", {}).get("versions", {}).items():
            found.setdefault(name, set()).add(version)
    return {name: ", ".join(sorted(of)) for name, of in sorted(found.items())}
