"""Check that a LLaVA, and the tower that it is given, have every tensor of the networks that their config.json describe.

transformers draws a tensor at random that a folder lacks, and loads the rest. Names are common ones (`renames.common`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from nan_merge.core.errors import UserError
from nan_merge.layouts.names import count_phrase, setting

LANGUAGE, PROJECTOR = "model.language_model.", "model.multi_modal_projector."
CLASS, PATCHES, PLACES, INNER = (  # of a CLIP, behind `vision_model.`
    *(f"embeddings.{name}" for name in ("class_embedding", "patch_embedding.weight", "position_embedding.weight")),
    "encoder.layers.0.mlp.fc1.weight",
)
TABLES = (f"{LANGUAGE}embed_tokens.weight", "lm_head.weight")
KINDS = ("weight", "bias")
BESIDE_LAYERS = (*(f"{PROJECTOR}linear_{n}.{kind}" for n in (1, 2) for kind in KINDS), TABLES[0], f"{LANGUAGE}norm.weight")
OF_TOWER = (CLASS, PATCHES, PLACES, INNER, *(f"{norm}.{kind}" for norm in ("pre_layrnorm", "post_layernorm") for kind in KINDS))


def check_model(folder: Path, names: Collection[str], record: Mapping[str, Any]) -> None:
    """Raise UserError if a LLaVA lacks a tensor of its projector or of the language model of the config.json `record`."""
    head = () if setting(record, "tie_word_embeddings") else TABLES[1:]
    layers = setting(record, "num_hidden_layers")
    _check(folder, names, (*BESIDE_LAYERS, *head), f"{LANGUAGE}layers.", layers, "a whole LLaVA from 1.5 on")


def check_tower(folder: Path, names: Collection[str], vision: Mapping[str, Any]) -> None:
    """Raise UserError if a tower of CLIP lacks a tensor of the config `vision`, {} if its config.json does not tell."""
    _check(folder, names, OF_TOWER, "encoder.layers.", vision.get("num_hidden_layers"), "a whole tower of CLIP")


def _check(folder: Path, names: Collection[str], beside: Sequence[str], stem: str, layers: Any, expected: str) -> None:
    """Raise UserError if one of the tensors `beside` the layers is lacking, a layer, or in a layer what any other layer has."""
    parts = [name.removeprefix(stem).partition(".") for name in names if name.startswith(stem)]
    number = len({layer for layer, _, _ in parts})
    each = dict.fromkeys(rest for _, _, rest in parts)
    whole = (*beside, *(f"{stem}{layer}.{rest}" for layer in range(number) for rest in each))
    if lacking := [name for name in whole if name not in names]:
        more = f", and lacks {count_phrase(len(lacking), 'tensor')} in all" if lacking[1:] else ""
        raise UserError(f"{folder}: has no '{lacking[0]}', under no name of it{more}; expected {expected}")
    if layers not in (None, number):
        raise UserError(
            f"{folder}: has {count_phrase(number, 'layer')} `{stem}*`, and `num_hidden_layers` of config.json is {layers};"
            f" expected {expected}, and config.json of the same model"
        )
