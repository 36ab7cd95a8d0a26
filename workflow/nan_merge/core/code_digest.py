"""Say where a result comes from: digests of code and files, versions; publish files whole. No torch."""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path


def code_digest(root: Path, *modules: str) -> str:
    """Digest the code that `modules` run: they and every project module they import, recursively.

    What counts is the syntax tree without docstrings, so a comment, a docstring or a new layout changes nothing
    and a changed function does. `root` is the checkout: modules `nan_merge.*` lie in `root/workflow`, `scripts.*`
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
            if name.split(".")[0] in ("nan_merge", "scripts") and _exists(root, name):
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
