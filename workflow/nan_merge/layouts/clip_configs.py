"""Check config.json of transformers and open_clip_config.json of a CLIP, and convert one to the other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nan_merge.core.errors import UserError

NETWORK: dict[str, Any] = {  # keys of one tower that define the network, with the defaults of transformers
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
}  # fmt: skip
VISION = {**NETWORK, "num_channels": 3, "image_size": 224, "patch_size": 32}
TEXT = {
    **NETWORK, "hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "vocab_size": 49408,
    "max_position_embeddings": 77, "bos_token_id": 49406, "eos_token_id": 49407,
}  # fmt: skip
MEAN = (0.48145466, 0.4578275, 0.40821073)  # of RGB values in 0..1 of CLIP's training images
STD = (0.26862954, 0.26130258, 0.27577711)
WIDTH = 512  # dimension of the joint embedding space
CANONICAL = {"architectures": ["CLIPVisionModelWithProjection"], "model_type": "clip_vision_model"}  # of a vision tower
MODEL_CFG = {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg"}
VISION_CFG = {"image_size", "layers", "width", "head_width", "patch_size", "mlp_ratio"}
TEXT_CFG = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"}
ACTIVATIONS = {"quick_gelu": True, "gelu": False}


def network(config: Mapping[str, Any], keys: Mapping[str, Any] = VISION) -> dict[str, Any]:
    """Return the keys of one tower of transformers' CLIP that define the network."""
    return {key: config.get(key, default) for key, default in keys.items()}


def check_transformers(file: Path, config: Mapping[str, Any]) -> None:
    """Raise UserError for a tower with another activation than QuickGELU."""
    if config["hidden_act"] != "quick_gelu":
        raise UserError(
            f"{file}: hidden_act is {config['hidden_act']!r}, OpenAI's CLIP was trained with 'quick_gelu'; correct the file, or"
            " use a base of OpenAI"
        )


def check_open_clip(file: Path, config: Mapping[str, Any]) -> None:
    """Raise UserError for a `model_cfg` with another activation than QuickGELU or of another network than a plain ViT."""
    if config.get("quick_gelu") is not True:
        raise UserError(
            f"{file}: quick_gelu is {config.get('quick_gelu')!r}, OpenAI's CLIP was trained with it; take the config of the"
            " model whose name ends in -quickgelu, or use a base of OpenAI"
        )
    check_vit(file, config)


def check_vit(file: Path, config: Mapping[str, Any]) -> None:
    """Raise UserError for a `model_cfg` with settings that OpenAI's ViTs do not have."""
    sections = {"": (config, MODEL_CFG), "vision_cfg: ": (config.get("vision_cfg"), VISION_CFG)}
    sections["text_cfg: "] = (config.get("text_cfg"), TEXT_CFG)
    unknown = [
        f"{prefix}{key}: {value!r}"
        for prefix, (section, known) in sections.items()
        for key, value in (section or {"no": "section"}).items()
        if key not in known and value
    ]
    if not isinstance((config.get("vision_cfg") or {}).get("layers", 12), int):
        unknown.append("vision_cfg: layers of a ResNet")
    if unknown:
        raise UserError(f"{file}: has {unknown[0]}; expected one of OpenAI's ViTs, without further settings")


def to_transformers(file: Path, config: Mapping[str, Any], whole: bool) -> dict[str, Any]:
    """Return config.json of a CLIPModel, or of its vision tower only, for a `model_cfg` of open_clip."""
    check_vit(file, config)
    vision, text = config["vision_cfg"], config["text_cfg"]
    activation = "quick_gelu" if config.get("quick_gelu") else "gelu"
    vision_width, text_width = vision.get("width", 768), text.get("width", 512)
    vision = {
        "hidden_size": vision_width, "intermediate_size": int(vision_width * vision.get("mlp_ratio", 4.0)),
        "hidden_act": activation,
        "num_hidden_layers": vision.get("layers", 12), "num_attention_heads": vision_width // vision.get("head_width", 64),
        "image_size": vision.get("image_size", 224), "patch_size": vision.get("patch_size", 16),
        "projection_dim": config["embed_dim"],
    }  # fmt: skip
    if not whole:
        return {**network(vision), "projection_dim": config["embed_dim"], **CANONICAL}
    tokens = text.get("vocab_size", 49408)
    text = {
        "hidden_size": text_width, "intermediate_size": int(text_width * text.get("mlp_ratio", 4.0)), "hidden_act": activation,
        "num_hidden_layers": text.get("layers", 12), "num_attention_heads": text.get("heads", 8), "vocab_size": tokens,
        "max_position_embeddings": text.get("context_length", 77), "bos_token_id": tokens - 2, "eos_token_id": tokens - 1,
        "projection_dim": config["embed_dim"],
    }  # fmt: skip
    halves = {
        "vision_config": {**network(vision), **vision, "model_type": "clip_vision_model"},
        "text_config": {**network(text, TEXT), **text, "model_type": "clip_text_model"},
    }
    return {"architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": config["embed_dim"], **halves}


def to_open_clip(file: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `model_cfg` of open_clip for config.json of a CLIPModel, or of its vision tower only."""
    whole = "vision_config" in config
    vision, text = network(config["vision_config"] if whole else config), network(config.get("text_config", {}), TEXT)
    if not whole:
        text["hidden_act"] = vision["hidden_act"]
    wrong = {half["hidden_act"] for half in (vision, text)} - ACTIVATIONS.keys()
    if wrong or vision["hidden_act"] != text["hidden_act"] or {vision["layer_norm_eps"], text["layer_norm_eps"]} != {1e-5}:
        raise UserError(f"{file}: has other activations or norms than open_clip's ViTs; expected one of OpenAI's")
    return {
        "embed_dim": config.get("projection_dim", WIDTH),
        "quick_gelu": ACTIVATIONS[vision["hidden_act"]],
        "vision_cfg": {
            "image_size": vision["image_size"], "layers": vision["num_hidden_layers"], "width": vision["hidden_size"],
            "head_width": vision["hidden_size"] // vision["num_attention_heads"], "patch_size": vision["patch_size"],
            "mlp_ratio": vision["intermediate_size"] / vision["hidden_size"],
        },
        "text_cfg": {
            "context_length": text["max_position_embeddings"], "vocab_size": text["vocab_size"], "width": text["hidden_size"],
            "heads": text["num_attention_heads"], "layers": text["num_hidden_layers"],
            "mlp_ratio": text["intermediate_size"] / text["hidden_size"],
        },
    }  # fmt: skip
