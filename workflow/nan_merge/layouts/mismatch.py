"""Tensors in which an expert does not match its base: left at the base, or refused with the ways out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from nan_merge.checkpoints.checkpoint import Checkpoint
from nan_merge.core.errors import UserError
from nan_merge.layouts.names import count_phrase, is_buffer, join_first
from nan_merge.layouts.views import view
from nan_merge.layouts.vision_language import absent_parts, described

MISSING = ("error", "base")  # policies for a tensor that an expert lacks
MOST_MISSING = 0.05  # of the parameters, which `base` may leave at the base


def fill_missing(
    expert: str, model: Checkpoint, base: Checkpoint, names: Sequence[str], missing: str, notes: list[str]
) -> Checkpoint:
    """Return an expert with missing tensors taken from the base, if `missing` is `base`; note its surplus tensors."""
    if missing not in MISSING:
        raise UserError(f"merge: missing: unknown {missing!r}; expected {' or '.join(MISSING)}")
    extra = _surplus(model, base)
    lacking = [name for name in names if name not in model.entries]
    if extra:
        notes.append(f"expert '{expert}': left out {count_phrase(len(extra), 'tensor')} that the base lacks: {join_first(extra)}")
    if not lacking:
        return model
    parts = absent_parts(model.entries, base.entries, names)
    absent = {name for tensors in parts.values() for name in tensors}
    rest = [name for name in lacking if name not in absent]
    if absent and not rest and missing == "error":
        raise UserError(
            f"expert '{expert}' ({model.folder}) has nothing of the base's {described(parts)}; expected a model with the parts of"
            f" the base {base.folder}. To merge what it has and leave these at the base, use `merge: missing: base`"
        )
    if missing == "error":
        return model
    if absent:
        notes.append(f"expert '{expert}': it has nothing of the base's {described(parts)}, which it leaves at the base")
    _refuse_missing(expert, model, base, [name for name in names if name not in absent], rest)
    if rest:
        count = count_phrase(len(rest), "tensor")
        notes.append(f"expert '{expert}': it lacks {count}, which it leaves at the base: {join_first(rest)}")
    return view(model, {**model.entries, **{name: base.entries[name] for name in lacking}})


def _refuse_missing(expert: str, model: Checkpoint, base: Checkpoint, names: Sequence[str], lacking: Sequence[str]) -> None:
    """Raise a UserError if the tensors that an expert lacks are a large share of the parameters, as of another layout."""
    size, whole = (sum(base.entries[name].size for name in each) for each in (lacking, names))
    if size <= MOST_MISSING * whole:
        return
    groups = Counter(".".join(name.split(".")[:2]) for name in lacking)
    found = [f"{group} ({count_phrase(count, 'tensor')})" for group, count in groups.most_common()]
    surplus = _surplus(model, base)
    raise UserError(
        f"expert '{expert}' ({model.folder}) lacks {size / whole:.0%} of the parameters of the base {base.folder}, with"
        f" `merge: missing: base` at most {MOST_MISSING:.0%} may stay at the base: {join_first(found)}"
        + (f"; it has others: {join_first(surplus, 3)}" if surplus else "")
        + ". Expected the names of the base's layout: convert the expert, or exclude what it should not move with"
        f" {_option(lacking, names)}"
    )


def _option(lacking: Iterable[str], names: Sequence[str]) -> str:
    """Return how to exclude tensors: with the pattern of their outermost modules, if no other of `names` is in those."""
    missing, outermost = set(lacking), {name: name.partition(".")[0] for name in names}
    modules = sorted({outermost[name] for name in missing})
    if {module for name, module in outermost.items() if name not in missing} & {*modules}:
        return "`merge: exclude:`"
    return "`merge: exclude: ['^{}\\b']`".format(modules[0] if len(modules) == 1 else f"({'|'.join(modules)})")


def check_match(
    base: Checkpoint, experts: Mapping[str, Checkpoint], names: Sequence[str], patterns: Sequence[re.Pattern[str]]
) -> None:
    """Raise a UserError that lists and counts all tensors whose name, shape or type differs from the base.

    Compared are the merged `names`, and integers of the base, which are not merged, unless they match one of `patterns`.
    """
    lacking, others, surplus = [], [], []
    unmatched: set[str] = set()
    whole = [n for n, t in base.entries.items() if not (t.is_float or is_buffer(n, t) or any(p.search(n) for p in patterns))]
    for expert, model in experts.items():
        for name in (*names, *whole):
            reason = _difference(model, base, name)
            if reason is None:
                continue
            unmatched.add(name)
            if reason:
                others.append(f"expert '{expert}': tensor '{name}' {reason}")
            else:
                lacking.append(f"expert '{expert}' has no tensor '{name}'")
                surplus += [name for name in _surplus(model, base) if name not in surplus]
    if lacking or others:
        count = f"{len(lacking) + len(others)} tensors do not match the base {base.folder}"
        remedy = f"Use experts of this base, or exclude these tensors with {_option(unmatched, [*names, *whole])}"
        if lacking:
            count += f" ({len(lacking)} are missing)"
            remedy += "; with `merge: missing: base` missing tensors keep the values of the base"
        instead = f". The experts have others instead: {join_first(surplus, 3)}" if surplus else ""
        raise UserError(f"{count}: {join_first([*lacking, *others])}{instead}. {remedy}")


def _difference(model: Checkpoint, base: Checkpoint, name: str) -> str | None:
    """Say in what a tensor of a model does not match the base: "" if the model lacks it, None if it matches."""
    origin, tensor = base.entries[name], model.entries.get(name)
    if not origin.is_float:
        return f"has floats, the base's is {origin.dtype}" if tensor is not None and tensor.is_float else None
    if tensor is None:
        return ""
    if tensor.shape != origin.shape:
        return f"is {list(tensor.shape)}, expected {list(origin.shape)}"
    return None if tensor.is_float else f"is {tensor.dtype}, expected floats"


def _surplus(model: Checkpoint, base: Checkpoint) -> list[str]:
    """Return the tensors of a model that the base lacks, without buffers."""
    return [name for name, tensor in model.entries.items() if name not in base.entries and not is_buffer(name, tensor)]
