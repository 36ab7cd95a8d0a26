"""Vocabularies of different sizes: cut to the rows of the base, or extended to the most."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from nan_merge.checkpoints.checkpoint import Checkpoint
from nan_merge.checkpoints.safetensors_file import RowSlice
from nan_merge.core.errors import UserError
from nan_merge.layouts.names import VOCABULARY, config, count_phrase, token_rows, vocabulary, with_setting
from nan_merge.layouts.views import FirstRows, MeanRows, view

POLICIES = ("truncate", "pad_mean")


def unify_rows(
    base: Checkpoint, experts: Mapping[str, Checkpoint], names: Collection[str], policy: str, notes: list[str]
) -> tuple[Checkpoint, dict[str, Checkpoint], dict[str, Any]]:
    """Give the vocabulary tensors among `names` equal numbers of rows: (base, experts, changes of config.json).

    `truncate` drops rows of an expert beyond those of the base, and takes rows that it lacks from the base, so that the
    other experts alone move them. `pad_mean` extends all models to the largest number of rows with the mean row of each
    tensor, as MergeLM (arXiv 2311.03099) does. Changes are added to `notes`.
    """
    if policy not in POLICIES:
        raise UserError(f"merge: vocabulary: unknown {policy!r}; expected {' or '.join(POLICIES)}")
    record = config(base)
    every = vocabulary(base.entries, record)
    tables = [name for name in every if name in names and base.entries[name].size]
    rows = {name: {token_rows(model.shape(name)) for model in experts.values() if _fits(model, base, name)} for name in tables}
    if all(counts <= {token_rows(base.shape(name))} for name, counts in rows.items()):
        return base, dict(experts), {}
    if policy == "truncate":
        return base, {expert: _truncated(expert, model, base, tables, notes) for expert, model in experts.items()}, {}
    most: dict[int, int] = {}  # rows of the base: rows of the result
    for name in tables:
        own = token_rows(base.shape(name))
        most[own] = max(most.get(own, own), *rows[name], own)
    wanted = {name: most[own] for name in every if (own := token_rows(base.shape(name))) in most}
    changes = with_setting(record, VOCABULARY, most[token_rows(base.shape(tables[0]))])
    padded = {expert: _padded(f"expert '{expert}'", model, wanted, notes) for expert, model in experts.items()}
    return _padded("base", base, wanted, notes), padded, changes


def _fits(model: Checkpoint, base: Checkpoint, name: str) -> bool:
    """Return whether a model has a tensor whose shape equals the base's except for the number of rows."""
    shapes = [each.shape(name) for each in (model, base) if name in each.entries]
    resized = {_with_rows(shape, 0) for shape in shapes if shape}
    return len(shapes) == 2 and len(resized) == 1 and all(shapes)


def _with_rows(shape: tuple[int, ...], rows: int) -> tuple[int, ...]:
    return (1, rows) if shape[0] == 1 and len(shape) == 2 else (rows, *shape[1:])


def _truncated(expert: str, model: Checkpoint, base: Checkpoint, names: Sequence[str], notes: list[str]) -> Checkpoint:
    """Return an expert without rows beyond those of the base, and with the base's rows where it has fewer."""
    entries = dict(model.entries)
    for name in (name for name in names if _fits(model, base, name)):
        tensor, rows, expected = entries[name], token_rows(entries[name].shape), token_rows(base.shape(name))
        if rows < expected and tensor.is_float:
            entries[name] = FirstRows.of(tensor, base.entries[name])
            notes.append(f"expert '{expert}': '{name}' has {rows} rows, so it leaves the last {expected - rows} at the base")
        if rows > expected:
            entries[name] = RowSlice(tensor.dtype, base.shape(name), tensor)
            notes.append(
                f"expert '{expert}': dropped {count_phrase(rows - expected, 'row')} of '{name}' behind the base's {expected}"
            )
    return view(model, entries)


def _padded(who: str, model: Checkpoint, wanted: Mapping[str, int], notes: list[str]) -> Checkpoint:
    """Return a model whose vocabulary tensors are extended to the `wanted` rows with their mean row."""
    entries = dict(model.entries)
    for name, rows in wanted.items():
        tensor = entries.get(name)
        if tensor is not None and 0 < (own := token_rows(tensor.shape)) < rows:
            first = RowSlice(tensor.dtype, (own, tensor.size // own), tensor)
            entries[name] = MeanRows(tensor.dtype, _with_rows(tensor.shape, rows), first)
            notes.append(f"{who}: added {count_phrase(rows - own, 'mean row')} to the {own} of '{name}'")
    return view(model, entries)
