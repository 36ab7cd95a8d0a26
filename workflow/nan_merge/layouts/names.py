"""What the names of tensors and the keys of config.json say about a model: heads, buffers, quantisation, prefixes."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from nan_merge.checkpoints.checkpoint import Checkpoint
from nan_merge.checkpoints.safetensors_file import Tensor
from nan_merge.core.blocks import LAYER_RE
from nan_merge.core.files import read_json

EMBEDDING = re.compile(r"(^|\.)(embed_tokens|wte|word_embeddings|embed_in|shared|tok_embeddings)\.weight$")
HEAD = re.compile(r"(^|\.)(lm_head|embed_out|decoder|predictions)\.(weight|bias)$")
BUFFERS = {  # names of what a model computes by itself, and the dimensions that tell masks from biases
    re.compile(r"(^|\.)(original_)?inv_freq$|(^|\.)(cos|sin)_cached$|(^|\.)(position|token_type)_ids$"): None,
    re.compile(r"(^|\.)(attn|attention)\.(bias|causal_mask)$"): 4,
    re.compile(r"(^|\.)(attn|attention)\.masked_bias$"): 0,
}
QUANTISED = re.compile(r"\.(qweight|qzeros|absmax|nested_absmax|quant_map|quant_state\.\w+|SCB|weight_packed|scale_inv)$")


ALIASES = {"llava_llama": "llava"}  # one architecture under two model types


def is_buffer(name: str, tensor: Tensor) -> bool:
    """Say whether a tensor is a constant of the architecture that some versions of it store: tables, indices, masks."""
    return any(pattern.search(name) and dimensions in (None, len(tensor.shape)) for pattern, dimensions in BUFFERS.items())


CONV1D = {"gpt2", "openai-gpt", "imagegpt", "decision_transformer"}  # model types whose matrices are stored as (in, out)
CONV1D_WEIGHT = re.compile(r"(^|\.)(c_attn|q_attn|c_proj|c_fc)\.weight$")


def depths(names: Sequence[str]) -> dict[str, float]:
    """Return for every tensor in a block its depth: 0 in the first block of its stack, 1 in the last."""
    places = {name: (match[1], int(match[2])) for name in names if (match := LAYER_RE.match(name))}
    last: dict[str, int] = {}
    for stack, number in places.values():
        last[stack] = max(number, last.get(stack, 0))
    return {name: number / last[stack] if last[stack] else 0.0 for name, (stack, number) in places.items()}


def transposed(record: Mapping[str, Any], names: Sequence[str]) -> set[str]:
    """Return the matrices that a model with this config.json stores as (in, out): those of Conv1D layers."""
    return {name for name in names if CONV1D_WEIGHT.search(name)} if architectures(record) & CONV1D else set()


def vocabulary(entries: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors with a row for every word: embeddings, and output heads with as many rows."""
    embeddings = [name for name, tensor in entries.items() if EMBEDDING.search(name) and len(tensor.shape) == 2]
    rows = {entries[name].shape[0] for name in embeddings}
    heads = [name for name, tensor in entries.items() if HEAD.search(name) and tensor.shape and tensor.shape[0] in rows]
    return embeddings + heads


def quantised(entries: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first tensor that holds codes or scales of quantised weights, or None."""
    for name, tensor in entries.items():
        scales = (f"{name}_scale", f"{name}_scale_inv", f"{name.rpartition('.')[0]}.scale")
        if QUANTISED.search(name) or (tensor.dtype.startswith("F8") and any(scale in entries for scale in scales)):
            return name
    return None


def config(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the content of the folder's config.json, empty if there is none."""
    file = checkpoint.folder / "config.json"
    record = read_json(file) if file.is_file() else {}
    return record if isinstance(record, dict) else {}


def setting(record: Mapping[str, Any], key: str) -> Any:
    """Return a key of a config.json, of its language model where it nests one, or None."""
    nested = record.get("text_config")
    found = record.get(key)
    return nested.get(key) if found is None and isinstance(nested, Mapping) else found


def architectures(record: Mapping[str, Any]) -> set[str]:
    """Return the model types that a config.json names: its own and that of the language model inside; may be empty."""
    nested = record.get("text_config")
    found = {record.get("model_type"), nested.get("model_type") if isinstance(nested, Mapping) else None}
    return {ALIASES.get(kind, kind) for kind in found if isinstance(kind, str)}


def count_phrase(number: int, noun: str) -> str:
    """Say how many there are of something: 1 tensor, 2 tensors."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def join_first(words: Sequence[str], most: int = 8) -> str:
    """List the first words, and count the rest."""
    return "; ".join(words[:most]) + (f"; and {len(words) - most} more" if len(words) > most else "")


def match_prefix(names: Collection[str], wanted: Collection[str]) -> tuple[str, dict[str, str]]:
    """Find the one prefix that, added to or stripped from `names`, makes them `wanted`: (what was done, {old: new}).

    Names that are wanted as they are stay. Nothing is done, ("", {}), where no prefix serves more than half of the
    names, or where two serve equally many.
    """
    lacking, strange = set(wanted) - set(names), [name for name in names if name not in wanted]
    endings = defaultdict(list)
    for name in lacking:
        for prefix in _prefixes(name):
            endings[name.removeprefix(prefix)].append(prefix)
    votes: Counter[tuple[str, str]] = Counter()
    for name in strange:
        votes.update(("added to", prefix) for prefix in endings[name])
        votes.update(("stripped from", prefix) for prefix in _prefixes(name) if name.removeprefix(prefix) in lacking)
    most = max(votes.values(), default=0)
    leading = [way for way, served in votes.items() if served == most]
    if 2 * most <= min(len(names), len(wanted)) or len(leading) > 1:
        return "", {}
    done, prefix = leading[0]
    found = {name: prefix + name if done == "added to" else name.removeprefix(prefix) for name in strange}
    found = {name: new for name, new in found.items() if new in lacking}
    return f"the prefix '{prefix}' was {done} {count_phrase(len(found), 'name')}", found


def _prefixes(name: str) -> list[str]:
    return [name[: i + 1] for i, letter in enumerate(name) if letter == "."]
