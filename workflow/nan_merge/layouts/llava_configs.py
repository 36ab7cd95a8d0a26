"""Convert config.json of a LLaVA between the original form, one flat record, and that of transformers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nan_merge.checkpoints.safetensors_file import Tensor
from nan_merge.core.errors import UserError
from nan_merge.layouts.llava_parts import INNER, PATCHES, PLACES

KINDS = {  # layout -> what stands in config.json
    "llava-hf": {"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava"},
    "llava-next-hf": {"architectures": ["LlavaNextForConditionalGeneration"], "model_type": "llava_next"},
}
ORIGINAL = {  # language model -> what stands in config.json
    "llama": {"architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava_llama"},
    "mistral": {"architectures": ["LlavaMistralForCausalLM"], "model_type": "llava_mistral"},
}
LANGUAGE = {"llava": "llama", **{str(kind["model_type"]): name for name, kind in ORIGINAL.items()}}  # of original folders
NOT_OF_THE_TEXT = re.compile(  # keys of an original config.json that its language model has not
    r"_|mm_|image_|tune_|(un)?freeze_|use_mm_|tokenizer_|max_length$|architectures$|transformers_version$|(torch_)?dtype$"
)
FEATURES = {"patch": "default", "cls_patch": "full"}  # mm_vision_select_feature -> vision_feature_select_strategy
STRATEGIES = {new: old for old, new in FEATURES.items()}
NAMED = {(1024, 14, 336): "openai/clip-vit-large-patch14-336", (1024, 14, 224): "openai/clip-vit-large-patch14"}
HEAD_WIDTH = 64  # ASSUME: of a tower whose config is not given, as in every ViT of OpenAI
PADDED = 64  # rows of the tables of tokens of transformers' LLaVAs are a multiple of this


def is_original(record: Mapping[str, Any]) -> bool:
    """Return whether a config.json is that of a LLaVA in the original form."""
    return "text_config" not in record and record.get("model_type") in LANGUAGE


def to_transformers(record: Mapping[str, Any], vision: Mapping[str, Any], layout: str, rows: int) -> dict[str, Any]:
    """Return config.json of transformers for an original one with `rows` tokens, which that of a picture follows."""
    text = {key: value for key, value in record.items() if not NOT_OF_THE_TEXT.match(key)}
    patches = (vision["image_size"] // vision["patch_size"]) ** 2
    return {
        **KINDS[layout],
        **{key: record[key] for key in ("dtype", "torch_dtype") if key in record},
        "text_config": {**text, "model_type": LANGUAGE[record["model_type"]], "vocab_size": padded(rows)},
        "vision_config": dict(vision),
        "image_token_index": rows, "pad_token_id": rows + 1, "image_seq_length": patches,
        "projector_hidden_act": "gelu", "vision_feature_layer": record.get("mm_vision_select_layer", -2),
        "vision_feature_select_strategy": FEATURES[record.get("mm_vision_select_feature", "patch")],
        "tie_word_embeddings": bool(record.get("tie_word_embeddings")),
    }  # fmt: skip


def to_original(file: Path, record: Mapping[str, Any], vision: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """Return the original config.json for one of transformers."""
    text = record["text_config"]
    kind = text.get("model_type", "llama")
    if kind not in ORIGINAL:
        raise UserError(f"{file}: its language model is of type {kind!r}; expected {' or '.join(map(repr, ORIGINAL))}")
    size = tuple(vision.get(key) for key in ("hidden_size", "patch_size", "image_size"))
    grid = record.get("image_grid_pinpoints")
    return {
        **{key: value for key, value in text.items() if not NOT_OF_THE_TEXT.match(key)}, **ORIGINAL[kind],
        **{key: record[key] for key in ("dtype", "torch_dtype") if key in record},
        **({"mm_vision_tower": NAMED[size]} if size in NAMED else {}),
        "vocab_size": rows, "mm_hidden_size": vision["hidden_size"], "mm_projector_type": "mlp2x_gelu", "use_mm_proj": True,
        "mm_vision_select_layer": record.get("vision_feature_layer", -2),
        "mm_vision_select_feature": STRATEGIES[record.get("vision_feature_select_strategy", "default")],
        **({"image_aspect_ratio": "anyres", "mm_patch_merge_type": "spatial_unpad", "image_grid_pinpoints": grid} if grid
           else {"image_aspect_ratio": "pad"}),
        "mm_use_im_start_end": False, "mm_use_im_patch_token": False,
    }  # fmt: skip


def padded(rows: int) -> int:
    """Return the rows of tables with two more tokens, for a picture and for padding, as a multiple of PADDED."""
    return -(-(rows + 2) // PADDED) * PADDED


def sizes_of(tower: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the sizes in the vision_config of a whole ViT of CLIP that its shapes tell."""
    width, _, _, patch = tower[PATCHES].shape
    layers = {name.split(".")[2] for name in tower if name.startswith("encoder.layers.")}
    return {
        "hidden_size": width, "num_hidden_layers": len(layers), "intermediate_size": tower[INNER].shape[0], "patch_size": patch,
        "image_size": patch * math.isqrt(tower[PLACES].shape[0] - 1),
    }  # fmt: skip


def vision_of(tower: Mapping[str, Tensor], published: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the vision_config that the shapes of a ViT of CLIP tell; names are those behind `vision_model.`.

    They do not tell the number of heads: it is that of a `published` config with the same sizes, or else that of heads
    HEAD_WIDTH wide. Raises UserError, naming the `folder` of the tower, if neither can be.
    """
    sizes = sizes_of(tower)
    width = sizes["hidden_size"]
    heads, rest = divmod(width, HEAD_WIDTH)
    if all(published.get(key) == size for key, size in sizes.items()):
        heads, rest = published["num_attention_heads"], 0
    if rest:
        raise UserError(
            f"{folder}: config.json does not tell how many attention heads its vision tower of width {width} has; give a"
            " published conversion of it with --base, or a tower whose config.json tells with --tower"
        )
    return {**sizes, "num_attention_heads": heads}
