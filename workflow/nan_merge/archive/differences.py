"""Say how two files differ: in which line, whether in the last bits of numbers alone, and merges in which tensors."""

from __future__ import annotations

import re
from itertools import zip_longest
from pathlib import Path

from nan_merge.core.errors import UserError
from nan_merge.core.names import first_of
from nan_merge.core.text import parse_json

NUMBER = re.compile(r"(?<![\w#.])[-+−]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
ROUNDING = 1e-9  # relative difference up to which a number differs by rounding
SHOWN = 100  # characters of a line


def difference(kept: Path, made: Path) -> str | None:
    """Return how a file that was made again differs from the kept one, None for equal bytes."""
    old, new = kept.read_bytes(), made.read_bytes()
    if old == new:
        return None
    try:
        texts = old.decode("utf-8"), new.decode("utf-8")
    except UnicodeDecodeError:
        return f"other bytes ({len(new):,}, expected {len(old):,})"
    return of_tensors(*texts) or of_texts(*texts)


def of_tensors(old: str, new: str) -> str:
    """Return which tensors differ between two records of a merge (`results/digests`); empty for equal ones and other texts."""
    try:
        records = [parse_json(text, "") for text in (old, new)]
    except UserError:
        return ""
    if not all(isinstance(each, dict) and "sha256" in each and isinstance(each.get("tensors"), dict) for each in records):
        return ""
    kept, made = (record["tensors"] for record in records)
    found = {
        f"of {len(kept)} tensors differ": [name for name in kept if made.get(name, kept[name]) != kept[name]],
        "missing": [name for name in kept if name not in made],
        "not expected": [name for name in made if name not in kept],
    }
    return "; ".join(f"{len(names)} {what}: {first_of(names)}" for what, names in found.items() if names)


def of_texts(old: str, new: str) -> str:
    """Return how two different texts differ: the largest difference of numbers where all else is equal, else the first line."""
    if NUMBER.sub("0", old) == NUMBER.sub("0", new):
        pairs = [(a, b) for a, b in zip(NUMBER.findall(old), NUMBER.findall(new), strict=True) if a != b]
        largest, a, b = max((relative(float(a.replace("−", "-")), float(b.replace("−", "-"))), a, b) for a, b in pairs)
        kind = "by rounding alone" if largest <= ROUNDING else "in numbers alone"
        count = f"{len(pairs)} number{'s' if len(pairs) > 1 else ''}"
        return f"differs {kind}: {count}, the largest relative difference {largest:.1e} ({b}, expected {a})"
    lines = enumerate(zip_longest(old.split("\n"), new.split("\n")), 1)
    line, (a, b) = next((line, pair) for line, pair in lines if pair[0] != pair[1])
    return f"line {line} is {_shown(b)}, expected {_shown(a)}"


def relative(a: float, b: float) -> float:
    """Return |a - b| over the larger of both."""
    return abs(a - b) / max(abs(a), abs(b)) if a != b else 0.0


def cut(line: str) -> str:
    """Return a line with its first SHOWN characters alone."""
    return line if len(line) <= SHOWN else line[:SHOWN] + " ..."


def _shown(line: str | None) -> str:
    return "missing" if line is None else repr(cut(line))
