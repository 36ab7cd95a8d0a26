"""What depends on the words that a model knows: weights tied between embedding and head, and rows that differ at the end."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any

from nan_merge.checkpoints.checkpoint import Checkpoint
from nan_merge.checkpoints.pickles import storage_key
from nan_merge.core.errors import UserError
from nan_merge.layouts.names import EMBEDDING, HEAD, config, count_phrase, setting, vocabulary
from nan_merge.layouts.views import FirstRows, MeanRows, equal, view

POLICIES = ("truncate", "pad_mean")
TIED, VOCABULARY = "tie_word_embeddings", "vocab_size"  # keys of config.json


def tie(base: Checkpoint, experts: Mapping[str, Checkpoint], notes: list[str]) -> tuple[Checkpoint, dict[str, Checkpoint]]:
    """Let tied weights be one tensor, counted and written once, and give an expert the head that only it ties.

    Tied is what shares its memory in a `.bin`, and an output head that equals the embedding, unless config.json says
    that they are not. `transformers` ties them again when it loads the result. What was done is added to `notes`.
    """
    twins = _twins(base)
    notes += [f"base: '{name}' is tied to '{kept}', so it is counted and written once" for name, kept in twins.items()]
    single = view(base, {name: tensor for name, tensor in base.entries.items() if name not in twins})
    return single, {expert: _retied(expert, model, single, twins, notes) for expert, model in experts.items()}


def _twins(base: Checkpoint) -> dict[str, str]:
    """Return which tensors of the base are another one of it: {name: the name that is kept}."""
    tied, words = setting(config(base), TIED), set(vocabulary(base.entries))
    twins: dict[str, str] = {}
    places: dict[Hashable, str] = {}
    distinct: list[str] = []
    for name in sorted(base.entries, key=_rank):
        if HEAD.search(name) and tied is False:
            continue
        tensor = base.entries[name]
        place = storage_key(tensor)
        twin = places.setdefault(place, name) if place else name
        if twin == name and name in words and len(tensor.shape) == 2:
            twin = next((other for other in distinct if equal(tensor, base.entries[other])), name)
            distinct.append(name)
        if twin != name:
            twins[name] = twin
    return twins


def _rank(name: str) -> int:
    """Return the place of a name among tied ones: a shared embedding is kept rather than its uses, a head last."""
    return 0 if name.endswith("shared.weight") else 1 if EMBEDDING.search(name) else 3 if HEAD.search(name) else 2


def _retied(expert: str, model: Checkpoint, base: Checkpoint, twins: Mapping[str, str], notes: list[str]) -> Checkpoint:
    """Return an expert with one tensor where the base has one, and with two where the base has two."""
    entries = dict(model.entries)
    for name, kept in twins.items():
        if name in entries and kept not in entries:
            entries[kept] = entries[name]
        elif name in entries and not equal(entries[name], entries[kept]):
            notes.append(f"expert '{expert}': its own '{name}' was left out, because the base ties it to '{kept}'")
        entries.pop(name, None)
    words = sorted((name for name in vocabulary(base.entries) if len(base.shape(name)) == 2), key=_rank)
    for name in words if setting(config(model), TIED) else ():
        twin = next((n for n in words if n in model.entries and base.shape(n)[1:] == base.shape(name)[1:]), None)
        if name not in entries and twin:
            entries[name] = entries[twin]
            notes.append(f"expert '{expert}': it ties '{name}', which it does not store, to '{twin}'; the base has both")
    return view(model, entries)


def unify_rows(
    base: Checkpoint, experts: Mapping[str, Checkpoint], names: Collection[str], policy: str, notes: list[str]
) -> tuple[Checkpoint, dict[str, Checkpoint], dict[str, Any]]:
    """Give the vocabulary tensors among `names` as many rows everywhere: (base, experts, changes of config.json).

    `truncate` drops the rows of an expert behind those of the base. `pad_mean` extends all models to the most rows
    with the mean row of each tensor, as MergeLM (arXiv 2311.03099) does. What was done is added to `notes`. Raises
    UserError for an expert that has fewer rows than a base that is not extended.
    """
    if policy not in POLICIES:
        raise UserError(f"merge: vocabulary: unknown {policy!r}; expected {' or '.join(POLICIES)}")
    words = [name for name in vocabulary(base.entries) if name in names and base.entries[name].size]
    rows = {name: {model.shape(name)[0] for model in experts.values() if _fits(model, base, name)} for name in words}
    if all(found <= {base.shape(name)[0]} for name, found in rows.items()):
        return base, dict(experts), {}
    if policy == "truncate":
        return base, {expert: _truncated(expert, model, base, words, notes) for expert, model in experts.items()}, {}
    most: dict[int, int] = {}  # rows of the base: rows of the result
    for name in words:
        own = base.shape(name)[0]
        most[own] = max(most.get(own, own), *rows[name], own)
    wanted = {name: most[base.shape(name)[0]] for name in vocabulary(base.entries) if base.shape(name)[0] in most}
    changes = _with_rows(config(base), most[base.shape(words[0])[0]])
    padded = {expert: _padded(f"expert '{expert}'", model, wanted, notes) for expert, model in experts.items()}
    return _padded("base", base, wanted, notes), padded, changes


def _fits(model: Checkpoint, base: Checkpoint, name: str) -> bool:
    """Say whether a model has a tensor that differs from the base's at most in its rows."""
    return name in model.entries and model.shape(name)[1:] == base.shape(name)[1:] and len(model.shape(name)) > 0


def _truncated(expert: str, model: Checkpoint, base: Checkpoint, words: Sequence[str], notes: list[str]) -> Checkpoint:
    """Return an expert without the rows behind those of the base."""
    entries = dict(model.entries)
    for name in (name for name in words if _fits(model, base, name)):
        found, expected = entries[name].shape[0], base.shape(name)[0]
        if found < expected:
            raise UserError(
                f"expert '{expert}': '{name}' has {found} rows, the base {expected}; set `merge: vocabulary: pad_mean` to"
                " extend all models to the most rows with their mean rows, or leave it at the base with `merge: exclude:`"
            )
        if found > expected:
            entries[name] = FirstRows(entries[name].dtype, base.shape(name), entries[name])
            notes.append(
                f"expert '{expert}': dropped {count_phrase(found - expected, 'row')} of '{name}' behind the base's {expected}"
            )
    return view(model, entries)


def _padded(who: str, model: Checkpoint, wanted: Mapping[str, int], notes: list[str]) -> Checkpoint:
    """Return a model whose vocabulary tensors end with their mean row, repeated up to the wanted number of rows."""
    entries = dict(model.entries)
    for name, rows in wanted.items():
        own = entries.get(name)
        if own is not None and 0 < own.shape[0] < rows:
            entries[name] = MeanRows(own.dtype, (rows, *own.shape[1:]), own)
            notes.append(f"{who}: added {count_phrase(rows - own.shape[0], 'mean row')} to the {own.shape[0]} of '{name}'")
    return view(model, entries)


def _with_rows(record: dict[str, Any], rows: int) -> dict[str, Any]:
    """Return the keys of a config.json that say how large the vocabulary is, changed to `rows`."""
    nested = record.get("text_config")
    changes: dict[str, Any] = {}
    if isinstance(nested, dict):
        changes["text_config"] = {**nested, VOCABULARY: rows}
    if VOCABULARY in record or not changes:
        changes[VOCABULARY] = rows
    return changes
