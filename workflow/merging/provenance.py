"""Say where a result comes from: digests of code and files, versions; publish files whole. No torch."""

from __future__ import annotations

import ast
import ctypes
import functools
import glob
import hashlib
import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGES = (
    "numpy",
    "numba",
    "scipy",
    "torch",
    "torchvision",
    "transformers",
    "open_clip_torch",
    "tokenizers",
    "safetensors",
    "snakemake",
)


@contextmanager
def publish(path: Path) -> Iterator[Path]:
    """Yield a temporary neighbour of `path` (a file or a folder) and rename it onto `path` when the block ends well.

    Everything written is flushed to disk before the rename, so after a crash there is the old result, the new
    one or none, never half of one. On an error the temporary is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    for left in path.parent.glob(f".{glob.escape(path.name)}.[0-9]*.part"):  # by a killed process; a path has one writer
        _remove(left)
    try:
        yield part
        for file in [part, *part.rglob("*")] if part.is_dir() else [part]:
            if not file.is_symlink():
                _flush(file)
        if path.is_dir() and not path.is_symlink():
            _exchange(part, path)  # what was there is removed below, under the temporary name
        else:
            part.replace(path)
        _flush(path.parent)
    finally:
        _remove(part)


def _exchange(left: Path, right: Path) -> None:
    """Swap two names in one step (renameat2, Linux); where that cannot be had, remove `right` and rename."""
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None or call(here, os.fsencode(left), here, os.fsencode(right), swap) != 0:
        shutil.rmtree(right)
        left.replace(right)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Return the SHA-256 of one file as 64 hexadecimal digits, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with open(path, "rb") as blocks:
        while block := blocks.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def code_digest(root: Path, *modules: str) -> str:
    """Digest the code that `modules` run: they and every project module they import, recursively.

    What counts is the syntax tree without docstrings, so a comment, a docstring or a new layout changes nothing
    and a changed function does. `root` is the checkout: modules `merging.*` lie in `root/workflow`, `scripts.*`
    in `root`.
    """
    digest = hashlib.sha256()
    for module in sorted(closure(root, modules)):
        file = module_file(root, module)
        digest.update(f"{module}\n{_tree(file, file.stat().st_mtime_ns)}\n".encode())
        for beside in sorted(file.parent.glob(f"{file.stem}.*.j2")):  # a template is code of its module
            digest.update(beside.read_bytes())
    return digest.hexdigest()[:16]


def module_file(root: Path, module: str) -> Path:
    """Return the source file of a project module.

    Raises FileNotFoundError for a module that is not the project's.
    """
    for top in (root / "workflow", root):
        path = top.joinpath(*module.split("."))
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.exists():
                return file
    raise FileNotFoundError(f"no module {module} in {root}")


def imports(root: Path, module: str) -> set[str]:
    """Return the project modules that `module` imports anywhere in its code, by full name."""
    file = module_file(root, module)
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            if name.split(".")[0] in ("merging", "scripts") and _exists(root, name):
                found.add(name)
    return found - {module}


def _exists(root: Path, module: str) -> bool:
    try:
        module_file(root, module)
    except FileNotFoundError:
        return False
    return True


def closure(root: Path, modules: Iterable[str]) -> set[str]:
    """Return project modules with all project modules that they import, directly or through others."""
    seen: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += _imports_of(root, module, module_file(root, module).stat().st_mtime_ns)
    return seen


@functools.cache
def _imports_of(root: Path, module: str, _changed: int) -> tuple[str, ...]:
    return tuple(sorted(imports(root, module)))


@functools.cache
def _tree(file: Path, _changed: int) -> str:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                del body[0]
    return ast.dump(tree)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that numbers depend on, where installed."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
