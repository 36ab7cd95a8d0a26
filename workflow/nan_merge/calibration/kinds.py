"""The kinds of calibration by name, and the binding of their settings.

A kind is a function of an encoder and a task; its keyword-only arguments are the settings of an entry of
config/calibration.yaml. It computes on the device of the encoder and returns NumPy arrays.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from nan_merge.calibration.fisher import fisher
from nan_merge.calibration.gram import gram
from nan_merge.calibration.gram_plus import gram_plus
from nan_merge.calibration.matching import matching
from nan_merge.core.errors import UserError
from nan_merge.methods.recipe import hyper_parameters

KINDS: dict[str, Callable[..., Any]] = {f.__name__: f for f in (fisher, gram)}  # of one expert
KINDS_TOGETHER: dict[str, Callable[..., Any]] = {f.__name__: f for f in (gram_plus, matching)}  # of all experts at once


def bound(kind: Callable[..., Any], settings: Mapping[str, Any], where: str) -> functools.partial[Any]:
    """Bind settings and the defaults of the others; an unknown key is a UserError that begins with `where`."""
    takes = hyper_parameters(kind)
    if unknown := sorted(settings.keys() - takes.keys()):
        raise UserError(f"{where}: takes {sorted(takes)}, not {unknown[0]!r}; correct the key or leave it out")
    return functools.partial(kind, **{name: settings.get(name, default) for name, (_, default) in takes.items()})
