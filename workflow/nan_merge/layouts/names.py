"""Infer properties of a model from tensor names and config.json: heads, buffers, quantisation, prefixes."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from nan_merge.checkpoints.checkpoint import Checkpoint
from nan_merge.checkpoints.safetensors_file import Tensor
from nan_merge.core.blocks import LAYER_RE
from nan_merge.core.text import read_mapping

EMBEDDING = re.compile(r"(^|\.)(embed_tokens|wte|word_embeddings|embed_in|shared|tok_embeddings)\.weight$")
HEAD = re.compile(r"(^|\.)(lm_head|embed_out|decoder|predictions)\.(weight|bias)$")
BUFFERS = {  # names of computed tensors -> number of dimensions (None: any), which separates masks from biases
    re.compile(r"(^|\.)(original_)?inv_freq$|(^|\.)(cos|sin)_cached$|(^|\.)(position|token_type)_ids$"): None,
    re.compile(r"(^|\.)(attn|attention)\.(bias|causal_mask)$"): 4,
    re.compile(r"(^|\.)(attn|attention)\.masked_bias$"): 0,
}
QUANTISED = re.compile(r"\.(qweight|qzeros|absmax|nested_absmax|quant_map|quant_state\.\w+|SCB|weight_packed|scale_inv)$")
ALIASES = {"llava_llama": "llava"}  # model types of one architecture
CONV1D = {"gpt2", "openai-gpt", "imagegpt", "decision_transformer"}  # model types whose matrices are stored as (in, out)
CONV1D_WEIGHT = re.compile(r"(^|\.)(c_attn|q_attn|c_proj|c_fc)\.weight$")


def is_buffer(name: str, tensor: Tensor) -> bool:
    """Return whether a tensor is a constant of the architecture that some versions store: tables, indices, masks."""
    return any(pattern.search(name) and dimensions in (None, len(tensor.shape)) for pattern, dimensions in BUFFERS.items())


def depths(names: Sequence[str]) -> dict[str, float]:
    """Return the relative depth of every tensor in a block: 0 in the first block of its stack, 1 in the last."""
    blocks = {name: (match[1], int(match[2])) for name in names if (match := LAYER_RE.match(name))}
    last: dict[str, int] = {}
    for stack, number in blocks.values():
        last[stack] = max(number, last.get(stack, 0))
    return {name: number / last[stack] if last[stack] else 0.0 for name, (stack, number) in blocks.items()}


def transposed(record: Mapping[str, Any], names: Sequence[str]) -> set[str]:
    """Return the names of Conv1D weights, stored as (in, out), of a model with this config.json."""
    return {name for name in names if CONV1D_WEIGHT.search(name)} if architectures(record) & CONV1D else set()


def vocabulary(entries: Mapping[str, Tensor]) -> list[str]:
    """Return the names of tensors with a row for every token: embeddings, and output heads with as many rows."""
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
    """Return the content of the folder's config.json, empty if missing, or the config of a model in memory."""
    if checkpoint.config is not None:
        return dict(checkpoint.config)
    file = checkpoint.folder / "config.json"
    return read_mapping(file) if file.is_file() else {}


def setting(record: Mapping[str, Any], key: str) -> Any:
    """Return a key of a config.json, else of its nested language model, else None."""
    nested = record.get("text_config")
    value = record.get(key)
    return nested.get(key) if value is None and isinstance(nested, Mapping) else value


def architectures(record: Mapping[str, Any]) -> set[str]:
    """Return the model types in a config.json: its own and that of a nested language model; may be empty."""
    nested = record.get("text_config")
    kinds = {record.get("model_type"), nested.get("model_type") if isinstance(nested, Mapping) else None}
    return {ALIASES.get(kind, kind) for kind in kinds if isinstance(kind, str)}


def count_phrase(number: int, noun: str) -> str:
    """Return a number with its noun: `1 tensor`, `2 tensors`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def join_first(items: Sequence[str], most: int = 8) -> str:
    """Join the first items with semicolons and count the others."""
    return "; ".join(items[:most]) + (f"; and {len(items) - most} more" if len(items) > most else "")


def match_prefix(names: Collection[str], wanted: Collection[str]) -> tuple[str, dict[str, str]]:
    """Find the prefix that maps `names` to `wanted` when added or stripped: (note for the user, {old: new}).

    Names that are already in `wanted` stay. The result is ("", {}) if no prefix maps more than half of the names, or if
    two prefixes map equally many.
    """
    lacking, unmatched = set(wanted) - set(names), [name for name in names if name not in wanted]
    endings = defaultdict(list)
    for name in lacking:
        for prefix in _prefixes(name):
            endings[name.removeprefix(prefix)].append(prefix)
    votes: Counter[tuple[str, str]] = Counter()
    for name in unmatched:
        votes.update(("added to", prefix) for prefix in endings[name])
        votes.update(("stripped from", prefix) for prefix in _prefixes(name) if name.removeprefix(prefix) in lacking)
    most = max(votes.values(), default=0)
    leading = [change for change, count in votes.items() if count == most]
    if 2 * most <= min(len(names), len(wanted)) or len(leading) > 1:
        return "", {}
    done, prefix = leading[0]
    new = {name: prefix + name if done == "added to" else name.removeprefix(prefix) for name in unmatched}
    new = {name: other for name, other in new.items() if other in lacking}
    return f"the prefix '{prefix}' was {done} {count_phrase(len(new), 'name')}", new


def _prefixes(name: str) -> list[str]:
    return [name[: i + 1] for i, letter in enumerate(name) if letter == "."]
