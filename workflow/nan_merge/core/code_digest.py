"""Digest the code that a script runs: its modules and their imports, without comments and docstrings."""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path


def code_digest(root: Path, *modules: str) -> str:
    """Return a digest (16 hexadecimal digits) of `modules` and every project module they import, recursively.

    The syntax trees without docstrings are digested: comments, docstrings and formatting change nothing, code does.
    `root` is the checkout: modules `nan_merge.*` lie in `root/workflow`, `scripts.*` in `root`.
    """
    digest = hashlib.sha256()
    for module in sorted(closure(root, modules)):
        file = module_file(root, module)
        digest.update(f"{module}\n{_tree(file, file.stat().st_mtime_ns)}\n".encode())
        for part in parts_of_page(file):
            digest.update(part.read_bytes())
    return digest.hexdigest()[:16]


def parts_of_page(file: Path) -> list[Path]:
    """Return the templates, style sheets and scripts beside a module that have its name: they count as its code."""
    return sorted(part for suffix in ("j2", "css", "js") for part in file.parent.glob(f"{file.stem}.*{suffix}"))


def module_file(root: Path, module: str) -> Path:
    """Return the source file of a project module; raise FileNotFoundError for any other module."""
    for top in (root / "workflow", root):
        path = top.joinpath(*module.split("."))
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.exists():
                return file
    raise FileNotFoundError(f"no module {module} in {root}")


def imports(root: Path, module: str) -> set[str]:
    """Return the full names of the project modules that `module` imports anywhere in its code."""
    file = module_file(root, module)
    imported = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            if name.split(".")[0] in ("nan_merge", "scripts"):
                with contextlib.suppress(FileNotFoundError):  # a name inside a module
                    module_file(root, name)
                    imported.add(name)
    return imported - {module}


def closure(root: Path, modules: Iterable[str]) -> set[str]:
    """Return `modules` and all project modules that they import, directly or indirectly."""
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
