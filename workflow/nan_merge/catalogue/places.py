"""Find the catalogue's files: those of the checkout that the package lies in, else the copies inside the installed package."""

from __future__ import annotations

from pathlib import Path


def checkout() -> Path | None:
    """Return the checkout of the workflow that this package lies in, or None for a package installed without one."""
    folder = Path(__file__).resolve().parents[3]
    return folder if is_checkout(folder) else None


def is_checkout(folder: Path) -> bool:
    """Return whether a folder is a checkout of the workflow."""
    return (folder / "Snakefile").is_file() and (folder / "workflow/nan_merge").is_dir()


def catalogue_root() -> Path:
    """Return the folder below which config/methods.yaml and its schema lie."""
    return checkout() or Path(__file__).resolve().parent / "data"
