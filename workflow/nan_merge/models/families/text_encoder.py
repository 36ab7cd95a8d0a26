"""BERT sentence encoder (MiniLM): from token ids to unit-norm mean-pooled embeddings.

The encoder is implemented here because importing transformers takes 5.2 CPU seconds per process and torch alone 2.1, and a
run starts some sixty such processes. A test compares it with BertModel of transformers.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from nan_merge.core.atomic import atomic_write
from nan_merge.core.errors import UserError
from nan_merge.layouts.canonical import MAX_RELATIVE_DISTANCE, copy_expert
from nan_merge.models.classification import build_head, load_tensors, read_config
from nan_merge.models.onednn import Linear
from nan_merge.models.prompts import by_length as batches
from nan_merge.models.prompts import embed_prompts, fill_templates

__all__ = ["Encoder", "batches", "head", "load", "prepare"]

FILES = ("model.safetensors", "config.json", "tokenizer.json")  # required files of a checkpoint
EXPECTED = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
EXTRA = ("tokenizer_config.json", "special_tokens_map.json", "vocab.txt")  # copied if present, for other tools


class Encoder(nn.Module):
    """Encode rows of token ids; modules are named as in a Hugging Face checkpoint (Devlin et al. 2019)."""

    def __init__(self, config: dict[str, Any], names: set[str]) -> None:
        super().__init__()
        width, eps = config["hidden_size"], config["layer_norm_eps"]
        self.heads = config["num_attention_heads"]
        self.embeddings: Any = nn.ModuleDict({
            "word_embeddings": nn.Embedding(config["vocab_size"], width),
            "position_embeddings": nn.Embedding(config["max_position_embeddings"], width),
            "token_type_embeddings": nn.Embedding(config["type_vocab_size"], width),
            "LayerNorm": nn.LayerNorm(width, eps=eps),
        })  # fmt: skip
        layers = [_layer(width, config["intermediate_size"], eps) for _ in range(config["num_hidden_layers"])]
        self.encoder: Any = nn.ModuleDict({"layer": nn.ModuleList(layers)})
        if "pooler.dense.weight" in names:  # not used; the names must match the file
            self.pooler = nn.ModuleDict({"dense": Linear(width, width)})
        if "embeddings.position_ids" in names:  # 0, 1, 2, ..., written by older releases; not used
            shape = (1, config["max_position_embeddings"])
            self.embeddings.register_buffer("position_ids", torch.zeros(shape, dtype=torch.int64))

    def forward(self, inputs: np.ndarray) -> Tensor:
        """Return unit-norm embeddings (B, d) of token rows (B, length); id 0 is padding, on the right."""
        is_token = self.filled(inputs)
        width = is_token.shape[1]
        parts = self.embeddings
        device = parts["word_embeddings"].weight.device
        tokens = torch.from_numpy(inputs[:, :width].astype(np.int64)).to(device)
        mask = torch.from_numpy(np.ascontiguousarray(is_token)).to(device)
        hidden = parts["word_embeddings"](tokens) + parts["token_type_embeddings"].weight[0]
        hidden = parts["LayerNorm"](hidden + parts["position_embeddings"].weight[:width])
        for layer in self.encoder["layer"]:
            hidden = self._layer(layer, hidden, mask[:, None, None, :])
        weight = mask[..., None].to(hidden.dtype)
        return F.normalize((hidden * weight).sum(1) / weight.sum(1).clamp_min(1), dim=1)

    def filled(self, inputs: np.ndarray) -> np.ndarray:
        """Return the mask of non-padding tokens, cut to the longest row of the batch: (B, width) bool."""
        is_token = inputs != 0
        return is_token[:, : max(1, int(is_token.sum(1).max()))]

    def _layer(self, layer: Any, hidden: Tensor, mask: Tensor) -> Tensor:
        parts = layer["attention"]["self"]
        shape = (*hidden.shape[:2], self.heads, -1)
        query, key, value = (parts[name](hidden).view(shape).transpose(1, 2) for name in ("query", "key", "value"))
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)
        hidden = _residual(layer["attention"]["output"], mixed, hidden)
        return _residual(layer["output"], F.gelu(layer["intermediate"]["dense"](hidden)), hidden)


def _layer(width: int, inner: int, eps: float) -> nn.ModuleDict:
    return nn.ModuleDict({
        "attention": nn.ModuleDict({
            "self": nn.ModuleDict({name: Linear(width, width) for name in ("query", "key", "value")}),
            "output": _output(width, width, eps),
        }),
        "intermediate": nn.ModuleDict({"dense": Linear(width, inner)}),
        "output": _output(inner, width, eps),
    })  # fmt: skip


def _output(inner: int, width: int, eps: float) -> nn.ModuleDict:
    return nn.ModuleDict({"dense": Linear(inner, width), "LayerNorm": nn.LayerNorm(width, eps=eps)})


def _residual(parts: Any, change: Tensor, hidden: Tensor) -> Tensor:
    return parts["LayerNorm"](parts["dense"](change) + hidden)


def load(folder: Path) -> Encoder:
    """Load a checkpoint folder; raise UserError for another architecture and tensors that do not fit its config.json."""
    config = read_config(folder, "text_encoder", EXPECTED, defaults=True)
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    encoder = Encoder(config, set(tensors))
    load_tensors(encoder, folder, tensors)
    return encoder


def prepare(source: Path, output: Path, base: Path | None = None, max_relative_distance: float = MAX_RELATIVE_DISTANCE) -> None:
    """Copy weights, config and tokenizer of an asset folder, whose layout is canonical already.

    With `base`, the folder is an expert of it and is checked against it (`layouts.canonical.copy_expert`).
    """
    missing = [name for name in FILES if not (source / name).is_file()]
    if missing:
        raise UserError(f"{source}: no {missing[0]}; family text_encoder needs {', '.join(FILES)}; see config/assets.yaml")
    if base is not None:
        return copy_expert(source, output, base, max_relative_distance, (*FILES[2:], *EXTRA))
    with atomic_write(output) as part:
        part.mkdir(parents=True)
        for name in (*FILES, *EXTRA):
            if (source / name).is_file():
                shutil.copyfile(source / name, part / name)


def head(classes: Sequence[str], templates: Sequence[str], tower: Path) -> np.ndarray:
    """Return the head (C, d) of a task from the folder of this encoder: centred, unit rows."""
    return build_head(embed_prompts(fill_templates(classes, templates, 1), load(tower), tower))
