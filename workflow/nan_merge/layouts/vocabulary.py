"""Tied embeddings and output heads, and vocabularies of different sizes."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any

from nan_merge.checkpoints.checkpoint import Checkpoint
from nan_merge.checkpoints.pickles import storage_key
from nan_merge.checkpoints.safetensors_file import RowSlice
from nan_merge.core.errors import UserError
from nan_merge.layouts.names import EMBEDDING, HEAD, config, count_phrase, setting, vocabulary
from nan_merge.layouts.views import MeanRows, equal, view

POLICIES = ("truncate", "pad_mean")
TIED, VOCABULARY = "tie_word_embeddings", "vocab_size"  # keys of config.json


def tie(base: Checkpoint, experts: Mapping[str, Checkpoint], notes: list[str]) -> tuple[Checkpoint, dict[str, Checkpoint]]:
    """Reduce tied weights to one tensor, counted and written once; give an expert the head that it ties and the base stores.

    Tied are tensors that share memory in a `.bin`, and an output head equal to the embedding unless config.json denies it.
    `transformers` ties them again when it loads the result. Changes are added to `notes`.
    """
    same = twins(base)
    notes += [f"base: '{name}' is tied to '{kept}', so it is counted and written once" for name, kept in same.items()]
    single = view(base, {name: tensor for name, tensor in base.entries.items() if name not in same})
    return single, {expert: _retied(expert, model, single, same, notes) for expert, model in experts.items()}


def twins(base: Checkpoint) -> dict[str, str]:
    """Return the duplicates among the tensors of the base: {name: name that is kept}."""
    tied, token_tensors = setting(config(base), TIED), set(vocabulary(base.entries))
    found: dict[str, str] = {}
    owners: dict[Hashable, str] = {}
    distinct: list[str] = []
    for name in sorted(base.entries, key=_rank):
        if HEAD.search(name) and tied is False:
            continue
        tensor = base.entries[name]
        key = storage_key(tensor)
        twin = owners.setdefault(key, name) if key else name
        if twin == name and name in token_tensors and len(tensor.shape) == 2:
            twin = next((other for other in distinct if equal(tensor, base.entries[other])), name)
            distinct.append(name)
        if twin != name:
            found[name] = twin
    return found


def _rank(name: str) -> int:
    """Return the priority among tied names: a shared embedding (0) is kept rather than its uses, a head last (3)."""
    return 0 if name.endswith("shared.weight") else 1 if EMBEDDING.search(name) else 3 if HEAD.search(name) else 2


def _retied(expert: str, model: Checkpoint, base: Checkpoint, twins: Mapping[str, str], notes: list[str]) -> Checkpoint:
    """Return an expert with one tensor where the base ties two, and with both where the base stores both."""
    entries = dict(model.entries)
    for name, kept in twins.items():
        if name in entries and kept not in entries:
            entries[kept] = entries[name]
        elif name in entries and not equal(entries[name], entries[kept]):
            notes.append(f"expert '{expert}': its own '{name}' was left out, because the base ties it to '{kept}'")
        entries.pop(name, None)
    token_tensors = sorted((name for name in vocabulary(base.entries) if len(base.shape(name)) == 2), key=_rank)
    for name in token_tensors if setting(config(model), TIED) else ():
        twin = next((n for n in token_tensors if n in model.entries and base.shape(n)[1:] == base.shape(name)[1:]), None)
        if name not in entries and twin:
            entries[name] = entries[twin]
            notes.append(f"expert '{expert}': it ties '{name}', which it does not store, to '{twin}'; the base has both")
    return view(model, entries)


def unify_rows(
    base: Checkpoint, experts: Mapping[str, Checkpoint], names: Collection[str], policy: str, notes: list[str]
) -> tuple[Checkpoint, dict[str, Checkpoint], dict[str, Any]]:
    """Give the vocabulary tensors among `names` equal numbers of rows: (base, experts, changes of config.json).

    `truncate` drops rows of an expert beyond those of the base. `pad_mean` extends all models to the largest number of
    rows with the mean row of each tensor, as MergeLM (arXiv 2311.03099) does. Changes are added to `notes`.
    Raises UserError for an expert with fewer rows than the base under `truncate`.
    """
    if policy not in POLICIES:
        raise UserError(f"merge: vocabulary: unknown {policy!r}; expected {' or '.join(POLICIES)}")
    token_tensors = [name for name in vocabulary(base.entries) if name in names and base.entries[name].size]
    rows = {name: {model.shape(name)[0] for model in experts.values() if _fits(model, base, name)} for name in token_tensors}
    if all(counts <= {base.shape(name)[0]} for name, counts in rows.items()):
        return base, dict(experts), {}
    if policy == "truncate":
        return base, {expert: _truncated(expert, model, base, token_tensors, notes) for expert, model in experts.items()}, {}
    most: dict[int, int] = {}  # rows of the base: rows of the result
    for name in token_tensors:
        own = base.shape(name)[0]
        most[own] = max(most.get(own, own), *rows[name], own)
    wanted = {name: most[base.shape(name)[0]] for name in vocabulary(base.entries) if base.shape(name)[0] in most}
    changes = _with_rows(config(base), most[base.shape(token_tensors[0])[0]])
    padded = {expert: _padded(f"expert '{expert}'", model, wanted, notes) for expert, model in experts.items()}
    return _padded("base", base, wanted, notes), padded, changes


def _fits(model: Checkpoint, base: Checkpoint, name: str) -> bool:
    """Return whether a model has a tensor whose shape equals the base's except for the number of rows."""
    return name in model.entries and model.shape(name)[1:] == base.shape(name)[1:] and len(model.shape(name)) > 0


def _truncated(expert: str, model: Checkpoint, base: Checkpoint, names: Sequence[str], notes: list[str]) -> Checkpoint:
    """Return an expert without rows beyond those of the base."""
    entries = dict(model.entries)
    for name in (name for name in names if _fits(model, base, name)):
        rows, expected = entries[name].shape[0], base.shape(name)[0]
        if rows < expected:
            raise UserError(
                f"expert '{expert}': '{name}' has {rows} rows, the base {expected}; set `merge: vocabulary: pad_mean` to"
                " extend all models to the largest number of rows with mean rows, or exclude the tensor with `merge: exclude:`"
            )
        if rows > expected:
            entries[name] = RowSlice(entries[name].dtype, base.shape(name), entries[name])
            notes.append(
                f"expert '{expert}': dropped {count_phrase(rows - expected, 'row')} of '{name}' behind the base's {expected}"
            )
    return view(model, entries)


def _padded(who: str, model: Checkpoint, wanted: Mapping[str, int], notes: list[str]) -> Checkpoint:
    """Return a model whose vocabulary tensors are extended to the `wanted` rows with their mean row."""
    entries = dict(model.entries)
    for name, rows in wanted.items():
        tensor = entries.get(name)
        if tensor is not None and 0 < tensor.shape[0] < rows:
            entries[name] = MeanRows(tensor.dtype, (rows, *tensor.shape[1:]), tensor)
            notes.append(f"{who}: added {count_phrase(rows - tensor.shape[0], 'mean row')} to the {tensor.shape[0]} of '{name}'")
    return view(model, entries)


def _with_rows(record: dict[str, Any], rows: int) -> dict[str, Any]:
    """Return the vocabulary size keys of a config.json, changed to `rows`."""
    nested = record.get("text_config")
    changes = {"text_config": {**nested, VOCABULARY: rows}} if isinstance(nested, dict) else {}
    return changes if changes and VOCABULARY not in record else {**changes, VOCABULARY: rows}
