"""Digest the code that a script runs: its modules and their imports, without comments and docstrings."""

from __future__ import annotations

import ast
import functools
import hashlib
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from nan_merge.core.errors import UserError
from nan_merge.core.files import read_json, write_json

PACKAGES = {"nan_merge": "workflow", "scripts": "."}  # whose modules are the project's, and the folder each lies in


class Source(NamedTuple):
    """What a digest takes of one module."""

    digest: str  # SHA-256 of its syntax tree without docstrings, and of its parts of a page
    imported: frozenset[str]  # full names of the project modules that it imports anywhere in its code


class Code:
    """The project's modules below a checkout, each read once."""

    def __init__(self, root: Path, cache: Path | None = None) -> None:
        """Take the root of a checkout, and a JSON file that keeps what is known of a source by its bytes; nothing is read yet.

        With `cache`, a later process parses only sources that changed. A cache that cannot be read or written is done without.
        """
        self.root = root
        self.cache = cache
        self._sources: dict[str, Source] = {}
        self._is_new = False  # whether a source was parsed since the cache was written

    def digest(self, *modules: str) -> str:
        """Return a digest (16 hexadecimal digits) of `modules` and every project module they import, recursively.

        The syntax trees without docstrings are digested: comments, docstrings and formatting change nothing, code does.
        """
        digest = hashlib.sha256()
        for module in sorted(self.closure(modules)):
            digest.update(f"{module} {self.source(module).digest}\n".encode())
        if self.cache and self._is_new:
            self._is_new = False
            with suppress(OSError, UserError):
                write_json(self.cache, self._known)
        return digest.hexdigest()[:16]

    def closure(self, modules: Iterable[str]) -> set[str]:
        """Return `modules` and all project modules that they import, directly or indirectly."""
        seen: set[str] = set()
        waiting = list(modules)
        while waiting:
            module = waiting.pop()
            if module not in seen:
                seen.add(module)
                waiting += self.source(module).imported
        return seen

    def source(self, module: str) -> Source:
        """Return what a digest takes of a project module; raise FileNotFoundError for any other module."""
        if module not in self._sources:
            file = self.file(module)
            text, parts = file.read_bytes(), [part.read_bytes() for part in parts_of_page(file)]
            key = hashlib.sha256(b"\0".join([_this_module(), text, *parts])).hexdigest()
            if key not in self._known:
                tree = ast.parse(text)
                digest = hashlib.sha256(b"".join([f"{dumped(tree)}\n".encode(), *parts])).hexdigest()
                self._known[key] = [digest, sorted(set(_imported(tree)))]
                self._is_new = True
            digest, imported = self._known[key]
            self._sources[module] = Source(digest, frozenset(imported) & self._files.keys() - {module})
        return self._sources[module]

    @functools.cached_property
    def _known(self) -> dict[str, list[Any]]:
        """Digest and imported names of every source that this process or an earlier one parsed, by the SHA-256 of its bytes."""
        with suppress(OSError, UserError, ValueError, TypeError):
            return dict(read_json(self.cache)) if self.cache else {}
        return {}

    def file(self, module: str) -> Path:
        """Return the source file of a project module; raise FileNotFoundError for any other module."""
        if module not in self._files:
            raise FileNotFoundError(f"no module {module} in {self.root}")
        return self._files[module]

    @functools.cached_property
    def _files(self) -> dict[str, Path]:
        """The source files of all modules of PACKAGES by full name."""
        found = {}
        for package, folder in PACKAGES.items():
            for file in (self.root / folder / package).rglob("*.py"):
                parts = file.relative_to(self.root / folder).with_suffix("").parts
                found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
        return found


@functools.cache
def _this_module() -> bytes:
    """What a digest depends on besides the source: this module, and the syntax trees of this version of Python."""
    return Path(__file__).read_bytes() + f"{sys.version_info[:2]}".encode()


def parts_of_page(file: Path) -> list[Path]:
    """Return the templates, style sheets and scripts beside a module that have its name: they count as its code."""
    return sorted(part for suffix in ("j2", "css", "js") for part in file.parent.glob(f"{file.stem}.*{suffix}"))


def _imported(tree: ast.Module) -> Iterator[str]:
    """Yield the full names that a module imports: modules, and names inside modules."""
    for node in _statements([tree]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))


def _statements(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Yield nodes and the statements inside them, at any depth; expressions hold none."""
    for node in nodes:
        yield node
        for name in ("body", "orelse", "finalbody", "handlers", "cases"):
            if isinstance(inner := getattr(node, name, None), list):
                yield from _statements(inner)


def dumped(value: Any) -> str:
    """Return a syntax tree as `ast.dump` of Python 3.11 does, without docstrings, in half of its time."""
    if isinstance(value, list):
        return f"[{', '.join(map(dumped, value))}]"
    if not isinstance(value, ast.AST):
        return repr(value)
    kind: Any = type(value)
    fields, parts = vars(value), []
    for name, is_optional in _fields(kind):
        field = fields.get(name)
        if field is None and is_optional:
            continue
        if name == "body" and isinstance(field, list) and field and _is_docstring(field[0]):
            field = field[1:]
        parts.append(f"{name}={dumped(field)}")
    return f"{kind.__name__}({', '.join(parts)})"


@functools.cache
def _fields(kind: Any) -> list[tuple[str, bool]]:
    """Return the fields of a kind of node, and whether one that is None is left out."""
    return [(name, getattr(kind, name, ...) is None) for name in kind._fields]


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
