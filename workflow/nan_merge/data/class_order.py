"""Compare the classes of a task with the names that a data set gives its labels: a swapped order makes every score wrong."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Mapping
from typing import Any

from nan_merge.core.errors import UserError


def check_order(classes: Any, stated: Mapping[str, list[str]], first: int = 0) -> dict[str, Any]:
    """Compare the task's classes with the names of the source's labels and say how far that goes.

    The keys of a mapping must be the names. The words of a list are compared without regard to capitals and punctuation;
    a word that is the name of another label is a wrong order, a word that is no name cannot be compared.
    Raises UserError for another number of classes and for a wrong order.
    """
    exact = isinstance(classes, Mapping)
    words = [str(word) for word in classes]
    agreed: set[int] = set()
    for file, names in stated.items():
        names = names[first:]
        if len(names) != len(words):
            raise UserError(f"{file} names {len(names)} classes, expected {len(words)} (`classes:`); is it another data set?")
        ours, theirs = (words, names) if exact else ([normalise_name(word) for word in words], [normalise_name(name) for name in names])
        for i, (word, name) in enumerate(zip(ours, theirs, strict=True)):
            if word == name:
                agreed.add(i)
            elif exact or name in ours or word in theirs:
                raise UserError(
                    f"label {i + first} is {names[i]!r} in {file} but {words[i]!r} in `classes:`; bring `classes:` into the order"
                    " of the data set, or every head stands for a wrong class"
                )
    if not agreed:
        print("warning: the order of the classes is unverified: the data set states no names like `classes:`", file=sys.stderr)
    return {"verified": len(agreed), "of": len(words), "by": sorted(stated)}


def normalise_name(name: str) -> str:
    """Return a name without capitals, underscores and punctuation, for comparison."""
    return " ".join(re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", name).casefold())) or name
