"""Hints for a name that is not known: the nearest known one, or some of those that are."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

RENAMED = {"evidence": "calibration", "words": "operators"}  # keys and values of earlier versions: what they are called now
SHOWN = 8  # names of a long list


def nearest(name: str, known: Iterable[str], see: str = "") -> str:
    """Return a hint: the new name of a renamed key or value, the nearest known name in any case, or some known names.

    `see` says where all can be read if there are more than SHOWN.
    """
    known = sorted(known)
    if RENAMED.get(name) in known:
        return f"it was renamed to '{RENAMED[name]}'"
    folded = {one.casefold(): one for one in known}
    if close := difflib.get_close_matches(name.casefold(), folded, 1):
        return f"did you mean '{folded[close[0]]}'?"
    return f"known are: {first_of(known) or 'none'}" + (f"; {see}" if len(known) > SHOWN and see else "")


def first_of(names: Sequence[str]) -> str:
    """Join the first SHOWN names with commas and count the others."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
