"""Find a model family by name: the module that can load, run and prepare its checkpoints."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from nan_merge.core.errors import UserError
from nan_merge.models import families as package


def family_names() -> list[str]:
    """Return the known families, which are the modules of this package."""
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__))


def find_family(name: str) -> ModuleType:
    """Import the module of a family; raises UserError with the known ones for any other name."""
    if name not in family_names():
        known = ", ".join(family_names())
        raise UserError(f"unknown family {name!r}; known: {known}; mend `family:` of the suite in config/suites")
    return importlib.import_module(f"{package.__name__}.{name}")
