"""Infer properties of a model from tensor names, shapes and config.json: embeddings and heads, buffers, stored orientation."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from nan_merge.checkpoints.checkpoint import Checkpoint
from nan_merge.checkpoints.safetensors_file import Tensor
from nan_merge.core.blocks import LAYER_RE
from nan_merge.core.text import is_given, read_mapping

TIED, VOCABULARY = "tie_word_embeddings", "vocab_size"  # keys of config.json
EMBEDDING = re.compile(r"(^|\.)(embed_tokens|wte|word_embeddings?|embed_in|shared|tok_embeddings)\.weight$")
LOOKUP = re.compile(r"(^|\.)(w|(?!unembed|embed_out)\w*emb\w*)\.weight$")  # of an embedding, if it has a row for every token
HEAD = re.compile(r"(^|\.)(lm_head|embed_out|decoder|predictions)\.(weight|bias)$")
POSITIONS = re.compile(
    r"(^|[._])(wpe|pos|positions?|positional|token_type|segment)(?=[._])"
)  # tables of something else than tokens
BUFFERS = {  # names of computed tensors -> number of dimensions (None: any), which separates masks from biases
    re.compile(r"(^|\.)(original_)?inv_freq$|(^|\.)(cos|sin)_cached$|(^|\.)(position|token_type)_ids$"): None,
    re.compile(r"(^|\.)(attn|attention)\.(bias|causal_mask)$"): 4,
    re.compile(r"(^|\.)(attn|attention)\.masked_bias$"): 0,
}
ALIASES = {"llava_llama": "llava"}  # model types of one architecture
LANGUAGE_MODELS = {  # model types for images whose language model is a type of its own, where config.json does not say so
    "llava": "llama", "llava_mistral": "mistral", "llava_qwen": "qwen2", "qwen2_vl": "qwen2", "qwen2_5_vl": "qwen2",
    "qwen3_vl": "qwen3",
}  # fmt: skip
NESTED = ("text_config", "llm_config")  # keys of the language model in config.json; the second is that of InternVL
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


def transposed(record: Mapping[str, Any], entries: Mapping[str, Tensor], unknown: bool = False) -> set[str]:
    """Return the names of Conv1D weights, stored as (in, out), among the tensors of a model with this config.json.

    A bias has one number for each output, so matrices that are not square tell how their stack of blocks stores Conv1D
    names. Where no bias tells, the model type decides; `unknown` is the answer where config.json has none either.
    """
    names = [name for name, tensor in entries.items() if CONV1D_WEIGHT.search(name) and len(tensor.shape) == 2]
    stored: dict[str, bool] = {}
    for name in names:
        bias, (rows, columns) = entries.get(f"{name.removesuffix('weight')}bias"), entries[name].shape
        if bias is not None and rows != columns and bias.shape in ((rows,), (columns,)):
            stored[_stack(name)] = bias.shape == (columns,)
    kinds = architectures(record)
    default = bool(kinds & CONV1D) if kinds else unknown
    return {name for name in names if stored.get(_stack(name), default)}


def _stack(name: str) -> str:
    """Return the name of the stack of blocks that a tensor belongs to; empty outside of one."""
    block = LAYER_RE.match(name)
    return block[1] if block else ""


class TokenTensors(NamedTuple):
    """The names of tensors with a row for every token."""

    embeddings: list[str]
    heads: list[str]  # matrices and biases


def token_tensors(entries: Mapping[str, Tensor], record: Mapping[str, Any]) -> TokenTensors:
    """Find embeddings and output heads by their role: a row for every token, outside of the blocks.

    A bias belongs to a head if the weight beside it does, or if there is none.

    The number of tokens is `vocab_size` of config.json, or that of embeddings with a known name; these, and heads with a
    known name, are found inside blocks too. A head has the width of an embedding.
    """
    named = [name for name, tensor in entries.items() if EMBEDDING.search(name) and len(tensor.shape) == 2]
    stated = setting(record, VOCABULARY)
    rows = {entries[name].shape[0] for name in named} | ({stated} if isinstance(stated, int) else set())
    sized = {name: tensor for name, tensor in entries.items() if tensor.shape and token_rows(tensor.shape) in rows}
    tables = [name for name, tensor in sized.items() if len(tensor.shape) == 2 and name.endswith(".weight") and _is_outside(name)]
    embeddings = named + [name for name in tables if LOOKUP.search(name) and name not in named]
    widths = {entries[name].shape[1] for name in embeddings}
    matrices = {name for name in tables if name not in embeddings and sized[name].shape[1] in widths}
    biases = {name for name, tensor in sized.items() if _is_bias(name, tensor) and _weight_of(name, entries) in {None, *matrices}}
    return TokenTensors(embeddings, [name for name in sized if HEAD.search(name) or name in matrices | biases])


def token_rows(shape: tuple[int, ...]) -> int:
    """Return the number of rows of a tensor with a row for every token, which in a bias (1, rows) of BART are columns."""
    return shape[1] if len(shape) == 2 and shape[0] == 1 else shape[0]


def _is_bias(name: str, tensor: Tensor) -> bool:
    return name.endswith("bias") and math.prod(tensor.shape) == token_rows(tensor.shape) and _is_outside(name)


def _weight_of(name: str, entries: Mapping[str, Tensor]) -> str | None:
    """Return the weight beside a bias; None for a bias without one, as beside a head that is tied and not stored."""
    weight = f"{name.removesuffix('bias')}weight"
    return weight if weight in entries else None


def _is_outside(name: str) -> bool:
    """Return whether a tensor is outside of the blocks and, by its name, no table of positions."""
    return not LAYER_RE.match(name) and not POSITIONS.search(name)


def vocabulary(entries: Mapping[str, Tensor], record: Mapping[str, Any]) -> list[str]:
    """Return the names of tensors with a row for every token: embeddings, then heads."""
    embeddings, heads = token_tensors(entries, record)
    return embeddings + heads


def config(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the content of the folder's config.json, empty if missing, or the config of a model in memory."""
    if checkpoint.config is not None:
        return dict(checkpoint.config)
    file = checkpoint.folder / "config.json"
    return read_mapping(file) if is_given(file) else {}


def nested_text(record: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return the key and the config of the language model that is nested in a config.json; ("", {}) if there is none."""
    return next(((key, value) for key in NESTED if isinstance(value := record.get(key), Mapping)), ("", {}))


def setting(record: Mapping[str, Any], key: str) -> Any:
    """Return a key of a config.json, else of its nested language model, else None."""
    value = record.get(key)
    return nested_text(record)[1].get(key) if value is None else value


def with_setting(record: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Return the changes that set a key of a config.json where it stands: in the nested language model, if any, and above."""
    where, nested = nested_text(record)
    changes = {where: {**nested, key: value}} if where else {}
    return changes if changes and key not in record else {**changes, key: value}


def architectures(record: Mapping[str, Any]) -> set[str]:
    """Return the model types in a config.json: its own and that of a nested language model; may be empty."""
    kinds = [each.get("model_type") for each in (record, nested_text(record)[1])]
    return {ALIASES.get(kind, kind) for kind in kinds if isinstance(kind, str)}


def count_phrase(number: int, noun: str) -> str:
    """Return a number with its noun: `1 tensor`, `2 tensors`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def join_first(items: Sequence[str], most: int = 8) -> str:
    """Join the first items with semicolons and count the others."""
    return "; ".join(items[:most]) + (f"; and {len(items) - most} more" if len(items) > most else "")
