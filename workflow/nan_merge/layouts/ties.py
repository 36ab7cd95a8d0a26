"""Tied embeddings and output heads: one tensor for both, or a head of its own for every model."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from nan_merge.checkpoints.checkpoint import Checkpoint
from nan_merge.checkpoints.pickles import storage_key
from nan_merge.checkpoints.safetensors_file import Tensor
from nan_merge.core.errors import UserError
from nan_merge.layouts.names import TIED, architectures, config, setting, token_tensors, vocabulary, with_setting
from nan_merge.layouts.views import equal, view

GENERATING = re.compile(r"LMHead|DoubleHeads|CausalLM|ConditionalGeneration")  # in names of architectures
WITH_HEAD = re.compile(rf"{GENERATING.pattern}|MaskedLM|PreTraining")
SHARED = "shared.weight"  # end of the name of an embedding that encoder and decoder share
HEADS = {"gpt_neox": "embed_out", "xlnet": "lm_loss", "whisper": "proj_out"}  # names of heads by model type; others: lm_head
OTHER_HEAD = re.compile(r"For(?!CausalLM|ConditionalGeneration|MaskedLM|PreTraining)[A-Z]")  # of classes, answers, ...
RESCALED = {"t5", "mt5", "umt5", "longt5", "switch_transformers", "udop", "pop2piano"}  # model types that scale into a tied head


def tie(
    base: Checkpoint, experts: Mapping[str, Checkpoint], notes: list[str]
) -> tuple[Checkpoint, dict[str, Checkpoint], dict[str, Any]]:
    """Reduce tied weights to one tensor, or give every model its own head: (base, experts, changes of config.json).

    Tied are tensors that share memory in a `.bin`, and an output head equal to the embedding unless config.json denies it.
    They are counted and written once, and `transformers` ties them again when it loads the result. A head that an expert has
    apart from its embedding is merged, and `tie_word_embeddings` becomes false; the embedding of a model that ties it stands
    for its head. Likewise an expert that ties the head that the base stores. Changes are added to `notes`.
    Raises UserError for both where an untied head computes something else (T5).
    """
    same = twins(base)
    own = _own_heads(base, experts, same, notes)
    same = {name: kept for name, kept in same.items() if not {name, kept} & own.keys()}
    notes += [f"base: '{name}' is tied to '{kept}', so it is counted and written once" for name, kept in same.items()]
    heads = {head: base.entries[kept] for head, kept in own.items()}
    single = view(base, {**{name: tensor for name, tensor in base.entries.items() if name not in same}, **heads})
    for head in heads.keys() - base.entries.keys():
        next(names for names in single.shards.values() if own[head] in names).append(head)
    models = {expert: _with_heads(model, base, own) for expert, model in experts.items()}
    models = {expert: _retied(expert, model, single, same, notes) for expert, model in models.items()}
    return single, models, {**with_setting(config(base), TIED, False), TIED: False} if own else {}


def tied_embedding(base: Checkpoint, shape: tuple[int, ...]) -> str | None:
    """Return the name of the embedding that the base uses as an output head of this width; None if it has a head or none."""
    record = config(base)
    kinds, tied = record.get("architectures") or [], setting(record, TIED)
    embeddings, heads = token_tensors(base.entries, record)
    if tied is None:
        tied = _generates(record) and all(len(base.shape(name)) < 2 for name in heads)
    if kinds and all(OTHER_HEAD.search(str(kind)) for kind in kinds):
        return None
    fitting = [name for name in sorted(embeddings, key=_rank(base)) if base.shape(name)[1:] == shape[1:]]
    return fitting[0] if tied and fitting else None


def head_left_behind(base: Checkpoint, entries: Mapping[str, Tensor], who: str) -> dict[str, Tensor]:
    """Return the head that stays where it was while an adapter moves the embedding to which the base ties it; may be empty.

    PEFT trains the embedding alone, as its module, and the head keeps the weight of the base.
    Raises UserError where the name of the head is not known, and for an embedding that encoder and decoder share.
    """
    tables = token_tensors(base.entries, config(base)).embeddings
    tied = [name for name in tables if tied_embedding(base, base.shape(name)) == name]
    moved = [name for name in tied if entries[name] is not base.entries[name]]
    if not moved or not _generates(config(base)):
        return {}
    stored = [name for name, kept in twins(base).items() if kept in moved]
    head = stored[0] if stored else head_of(moved[0], config(base))
    if head is None or moved[0].endswith(SHARED):
        raise UserError(
            f"{who}: moves '{moved[0]}', but not the output head that the base {base.folder} ties to it; expected an adapter that"
            " has both, or a base that stores both. Fold it into a base with an untied head first"
        )
    apart = entries.get(head) is not base.entries.get(head)
    return {} if apart else {head: base.entries[moved[0]]}


def _generates(record: Mapping[str, Any]) -> bool:
    """Return whether a model predicts tokens by its architectures, or names none."""
    kinds = record.get("architectures") or []
    return not kinds or any(WITH_HEAD.search(str(kind)) for kind in kinds)


def head_of(embedding: str, record: Mapping[str, Any]) -> str | None:
    """Return the name of the head that a generating model ties to an embedding and does not store; None if it is not known."""
    if not any(GENERATING.search(str(kind)) for kind in record.get("architectures") or ["CausalLM"]):
        return None
    names = [HEADS[kind] for kind in architectures(record) if kind in HEADS]
    outer = "language_model." if embedding.startswith("language_model.model.") else ""
    return f"{outer}{names[0] if names else 'lm_head'}.weight"


def _own_heads(base: Checkpoint, experts: Mapping[str, Checkpoint], same: Mapping[str, str], notes: list[str]) -> dict[str, str]:
    """Return what an untied model stores, if an expert is one and the base is tied: {tensor: tensor of the base for it}."""
    own: dict[str, str] = {}
    for expert, model in experts.items():
        for head in _matrices_of_heads(model, base):
            kept = same.get(head) if head in base.entries else tied_embedding(base, model.shape(head))
            if kept is None:
                continue
            tied = {head: kept, **_tied_besides(head, kept, base)}
            apart = next((name for name, origin in tied.items() if _is_apart(model, base, name, origin)), None)
            if apart:
                _refuse_rescaled(
                    f"expert '{expert}' ({model.folder}) has its own '{apart}', which the base ties to '{tied[apart]}'", base
                )
                own |= tied
                notes.append(
                    f"expert '{expert}': its own '{apart}' differs from its '{tied[apart]}', to which the base ties it; the"
                    f" merged model has both, with `{TIED}: false` in its config.json"
                )
    return own


def _tied_besides(head: str, kept: str, base: Checkpoint) -> dict[str, str]:
    """Return what else an untied model stores: the bias of a masked language model's head, the tables of encoder and decoder."""
    module, stem = head.removesuffix("weight"), kept.removesuffix(SHARED)
    bias = f"{module.removesuffix('decoder.')}bias"
    biases = {f"{module}bias": bias} if module.endswith("decoder.") and bias in base.entries else {}
    return biases | ({f"{stem}{side}.embed_tokens.weight": kept for side in ("encoder", "decoder")} if stem != kept else {})


def _is_apart(model: Checkpoint, base: Checkpoint, name: str, kept: str) -> bool:
    """Return whether a model has a tensor of its own beside the one that the base uses for it."""
    both = name in model.entries and kept in model.entries
    return both and not _is_inherited(model, base, name) and not equal(model.entries[name], model.entries[kept])


def _matrices_of_heads(model: Checkpoint, base: Checkpoint) -> list[str]:
    heads = token_tensors(model.entries, config(model) or config(base)).heads
    return [name for name in heads if len(model.shape(name)) == 2]


def _is_inherited(model: Checkpoint, base: Checkpoint, name: str) -> bool:
    """Return whether an adapter left a tensor of the base as it was."""
    return model.entries[name] is base.entries.get(name)


def _with_heads(model: Checkpoint, base: Checkpoint, own: Mapping[str, str]) -> Checkpoint:
    """Return a model with its embedding for each of the heads that it does not have; a copy of the embedding is no head."""
    surplus = [name for name in _matrices_of_heads(model, base) if name not in own and name not in base.entries]
    copies = {name for name in surplus if tied_embedding(base, model.shape(name))}
    entries = {name: tensor for name, tensor in model.entries.items() if name not in copies}
    for head, kept in own.items():
        if kept in entries and (head not in entries or _is_inherited(model, base, head)):
            entries[head] = entries[kept]
    return view(model, entries)


def _refuse_rescaled(who: str, base: Checkpoint) -> None:
    if kinds := architectures(config(base)) & RESCALED:
        raise UserError(
            f"{who}; a model of type {' / '.join(sorted(kinds))} scales what enters a tied head, but not what enters its own."
            f" Expected experts and base that tie it alike (`{TIED}` of config.json)"
        )


def twins(base: Checkpoint) -> dict[str, str]:
    """Return the duplicates among the tensors of the base: {name: name that is kept}."""
    record = config(base)
    embeddings, heads = token_tensors(base.entries, record)
    tied, tables = setting(record, TIED), {*embeddings, *heads}
    found: dict[str, str] = {}
    owners: dict[Hashable, str] = {}
    distinct: list[str] = []
    for name in sorted(base.entries, key=_rank(base)):
        if name in heads and tied is False:
            continue
        tensor = base.entries[name]
        key = storage_key(tensor)
        twin = owners.setdefault(key, name) if key else name
        if twin == name and name in tables and len(tensor.shape) == 2:
            twin = next((other for other in distinct if equal(tensor, base.entries[other])), name)
            distinct.append(name)
        if twin != name:
            found[name] = twin
    return found


def _rank(base: Checkpoint) -> Callable[[str], int]:
    """Return the priority of tied names: a shared embedding (0) is kept rather than its uses, a head last (3)."""
    embeddings, heads = token_tensors(base.entries, config(base))
    ranks = {**dict.fromkeys(heads, 3), **dict.fromkeys(embeddings, 1)}
    return lambda name: 0 if name.endswith(SHARED) else ranks.get(name, 2)


def _retied(expert: str, model: Checkpoint, base: Checkpoint, twins: Mapping[str, str], notes: list[str]) -> Checkpoint:
    """Return an expert with one tensor where the base ties two, and with both where the base stores both."""
    entries = dict(model.entries)
    for name, kept in twins.items():
        if name in entries and kept not in entries:
            entries[kept] = entries[name]
        elif name in entries and not equal(entries[name], entries[kept]):
            notes.append(f"expert '{expert}': its own '{name}' was left out, because the base ties it to '{kept}'")
        entries.pop(name, None)
    tables = sorted((name for name in vocabulary(base.entries, config(base)) if len(base.shape(name)) == 2), key=_rank(base))
    biases = {decoder: bias for name in tables for decoder, bias in _tied_besides(name, "", base).items()}
    for name in (*tables, *(biases.keys() & base.entries.keys())) if setting(config(model), TIED) else ():
        same_width = (n for n in tables if n in model.entries and base.shape(n)[1:] == base.shape(name)[1:])
        twin = biases.get(name) or next(same_width, None)
        if name not in entries and twin in model.entries:
            _refuse_rescaled(f"expert '{expert}' ({model.folder}) ties '{name}' to '{twin}', the base has both", base)
            entries[name] = entries[twin]
            notes.append(f"expert '{expert}': it ties '{name}', which it does not store, to '{twin}'; the base has both")
    return view(model, entries)
