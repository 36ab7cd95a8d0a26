"""Compare the classes of a task with the label names of its data set: a wrong order makes every score wrong."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Mapping
from typing import Any

from nan_merge.core.errors import UserError


def check_order(classes: Any, stated: Mapping[str, list[str]], first: int = 0) -> dict[str, Any]:
    """Compare a task's classes with label names by the file that states them; return how many were verified and by which files.

    The keys of a mapping must equal the label names. The items of a list are compared without case and punctuation; one
    equal to the name of another label is a wrong order, one equal to no name stays unverified. `first` is the number of the
    first class. Raises UserError for another number of classes and for a wrong order.
    """
    exact = isinstance(classes, Mapping)
    keys = [str(key) for key in classes]
    agreed: set[int] = set()
    for file, names in stated.items():
        names = names[first:]
        if len(names) != len(keys):
            raise UserError(f"{file} names {len(names)} classes, expected {len(keys)} (`classes:`); is it another data set?")
        ours, theirs = (keys, names) if exact else ([normalise_name(name) for name in each] for each in (keys, names))
        for i, (key, name) in enumerate(zip(ours, theirs, strict=True)):
            if key == name:
                agreed.add(i)
            elif exact or name in ours or key in theirs:
                raise UserError(
                    f"label {i + first} is {names[i]!r} in {file} but {keys[i]!r} in `classes:`; bring `classes:` into the order"
                    " of the data set, or every head predicts a wrong class"
                )
    if not agreed:
        print("warning: the order of the classes is unverified: the data set states no names like `classes:`", file=sys.stderr)
    return {"verified": len(agreed), "of": len(keys), "by": sorted(stated)}


def normalise_name(name: str) -> str:
    """Return a name in lower case without underscores and punctuation, for comparison."""
    return " ".join(re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", name).casefold())) or name
