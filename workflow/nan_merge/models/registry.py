"""Find a model family by name: the module that prepares, loads and runs its checkpoints."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from nan_merge.core.errors import UserError
from nan_merge.models import families as package


def family_names() -> list[str]:
    """Return the names of all families: the modules of `models/families`."""
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__))


def find_family(name: str) -> ModuleType:
    """Import the module of a family; raise UserError for an unknown name."""
    if name not in family_names():
        known = ", ".join(family_names())
        raise UserError(f"unknown family {name!r}; known: {known}; correct `family:` of the suite in config/suites")
    return importlib.import_module(f"{package.__name__}.{name}")
