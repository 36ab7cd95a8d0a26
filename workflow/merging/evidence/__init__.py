"""Collect what needs data and a forward pass: Fisher, Gram, and the coefficients that AdaMerging learns.

A kind of evidence is a function of an encoder and a task; its keyword-only arguments are the settings that
config/evidence.yaml gives, so a new kind is a function and a line of the dict. All is computed on the device of the
encoder and comes back as NumPy arrays.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from merging.evidence.fisher import fisher
from merging.evidence.gram import gram
from merging.evidence.gram_plus import gram_plus
from merging.recipe import hyper_parameters
from merging.results import UserError

KINDS: dict[str, Callable[..., Any]] = {f.__name__: f for f in (fisher, gram)}  # of one expert
KINDS_TOGETHER: dict[str, Callable[..., Any]] = {f.__name__: f for f in (gram_plus,)}  # of all experts at once


def bound(kind: Callable[..., Any], settings: Mapping[str, Any], where: str) -> functools.partial[Any]:
    """Bind settings, and defaults where they are silent; a key that is not taken is a UserError, begun with `where`."""
    takes = hyper_parameters(kind)
    if unknown := sorted(settings.keys() - takes.keys()):
        raise UserError(f"{where}: takes {sorted(takes)}, not {unknown[0]!r}; correct the key or leave it out")
    return functools.partial(kind, **{name: settings.get(name, default) for name, (_, default) in takes.items()})
