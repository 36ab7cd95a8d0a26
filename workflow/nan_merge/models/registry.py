"""Find a model family by name: the module that prepares, loads and runs its checkpoints."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from nan_merge.core.errors import UserError
from nan_merge.models import families as package

NEEDED = {  # function of some families -> what a suite of another family writes
    "prepare": "its experts are trained from random weights: write `network:` in place of `base:` of the suite",
    "build": "its models are fine-tuned from a base: write `base:` in place of `network:` of the suite",
    "head": "its experts keep their own: write `head: expert` in place of `text_tower:` of the suite",
    "extract_head": "its heads are made of class prompts: write `text_tower:` in place of `head: expert` of the suite",
}
BENCHMARKS = "a harness runs its models: name benchmarks in `tasks:` of the suite, and no `text_tower:`, `head:` or `input:`"


def family_names() -> list[str]:
    """Return the names of all families: the modules of `models/families`."""
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__))


def find_family(name: str, needed: str | None = None) -> ModuleType:
    """Import the module of a family; raise UserError for an unknown name, and for a family without the function `needed`."""
    if name not in family_names():
        known = ", ".join(family_names())
        raise UserError(f"unknown family {name!r}; known: {known}; correct `family:` of the suite in config/suites")
    module = importlib.import_module(f"{package.__name__}.{name}")
    if needed is not None and not hasattr(module, needed):
        raise UserError(f"family {name} has no `{needed}`; {BENCHMARKS if hasattr(module, 'HARNESS') else NEEDED[needed]}")
    return module
