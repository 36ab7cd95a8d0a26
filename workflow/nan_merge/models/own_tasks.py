"""Folders that define harness tasks beside those of lm_eval; read by the workflow, too, so nothing heavy is imported."""

from __future__ import annotations

from pathlib import Path

from xxhash import xxh3_128

SHIPPED = Path(__file__).with_name("tasks")


def own_folder(name: str) -> Path | None:
    """Return the folder of tasks of the project, or of the user (`./...`, from the folder of the run); None for lm_eval's."""
    if name.startswith("."):
        return Path(name)
    return SHIPPED / name if (SHIPPED / name).is_dir() else None


def definition(name: str) -> str:
    """Return the XXH3-128 of the YAML files and functions of an own folder; empty for lm_eval's, which its version identifies."""
    folder = own_folder(name)
    if folder is None or not folder.is_dir():
        return ""
    digest = xxh3_128()
    for file in sorted(path for kind in ("*.yaml", "*.yml", "*.py") for path in folder.rglob(kind)):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(folder)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()
