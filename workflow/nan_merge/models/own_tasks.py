"""Folders that define harness tasks beside those of lm_eval; read by the workflow, too, so nothing heavy is imported."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from xxhash import xxh3_128

SHIPPED = Path(__file__).with_name("tasks")


def own_folder(name: str) -> Path | None:
    """Return the folder of tasks of the project, or of the user (`./...`, from the folder of the run); None for lm_eval's."""
    if name.startswith("."):
        return Path(name)
    return SHIPPED / name if (SHIPPED / name).is_dir() else None


def definition(name: str) -> str:
    """Return the XXH3-128 of the YAML files and functions of an own folder, and of the functions that shipped folders share.

    Empty for a folder of lm_eval, which its version identifies.
    """
    folder = own_folder(name)
    if folder is None or not folder.is_dir():
        return ""
    digest = xxh3_128()
    own = (path for kind in ("*.yaml", "*.yml", "*.py") for path in folder.rglob(kind))
    for top, file in sorted([*((folder, path) for path in own), *((SHIPPED, path) for path in SHIPPED.glob("*.py"))]):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(top)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def more_scores(name: str, samples: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the scores of `aggregate` in score.py of an own folder: metric, value and standard error; none without it."""
    file = (own_folder(name) or Path()) / "score.py"
    if own_folder(name) is None or not file.is_file():
        return []
    spec = importlib.util.spec_from_file_location(f"scores_of_{file.parent.name}", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return [*module.aggregate(samples)] if hasattr(module, "aggregate") else []
