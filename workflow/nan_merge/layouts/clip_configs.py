"""What config.json of transformers and open_clip_config.json say about a CLIP, checked and turned into each other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nan_merge.core.errors import UserError

NETWORK: dict[str, Any] = {  # the keys of a half that make the network, and what transformers takes where they are not there
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
}  # fmt: skip
VISION = {**NETWORK, "num_channels": 3, "image_size": 224, "patch_size": 32}
TEXT = {
    **NETWORK, "hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "vocab_size": 49408,
    "max_position_embeddings": 77, "bos_token_id": 49406, "eos_token_id": 49407,
}  # fmt: skip
MEAN = (0.48145466, 0.4578275, 0.40821073)  # of the RGB values of CLIP's training images
STD = (0.26862954, 0.26130258, 0.27577711)
WIDTH = 512  # of the space that both halves are projected into
WAIST = {"architectures": ["CLIPVisionModelWithProjection"], "model_type": "clip_vision_model"}  # config.json of a vision half
MODEL_CFG = {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg"}
VISION_CFG = {"image_size", "layers", "width", "head_width", "patch_size", "mlp_ratio"}
TEXT_CFG = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"}
ACTIVATIONS = {"quick_gelu": True, "gelu": False}


def network(config: Mapping[str, Any], keys: Mapping[str, Any] = VISION) -> dict[str, Any]:
    """Return the keys of a half of transformers' CLIP that make the network."""
    return {key: config.get(key, default) for key, default in keys.items()}


def check_transformers(file: Path, config: Mapping[str, Any]) -> None:
    """Refuse a half of another activation than QuickGELU."""
    if config["hidden_act"] != "quick_gelu":
        raise UserError(
            f"{file}: hidden_act is {config['hidden_act']!r}, OpenAI's CLIP was trained with 'quick_gelu'; correct the file, or"
            " use a base of OpenAI"
        )


def check_open_clip(file: Path, config: Mapping[str, Any]) -> None:
    """Refuse a `model_cfg` of another activation than QuickGELU, or that describes no plain ViT."""
    if config.get("quick_gelu") is not True:
        raise UserError(
            f"{file}: quick_gelu is {config.get('quick_gelu')!r}, OpenAI's CLIP was trained with it; take the config of the"
            " model whose name ends in -quickgelu, or use a base of OpenAI"
        )
    plain(file, config)


def plain(file: Path, config: Mapping[str, Any]) -> None:
    """Refuse a `model_cfg` with settings that OpenAI's ViTs do not have."""
    halves = {"": (config, MODEL_CFG), "vision_cfg: ": (config.get("vision_cfg"), VISION_CFG)}
    halves["text_cfg: "] = (config.get("text_cfg"), TEXT_CFG)
    strange = [
        f"{where}{key}: {value!r}"
        for where, (half, known) in halves.items()
        for key, value in (half or {"nothing": "there"}).items()
        if key not in known and value
    ]
    if not isinstance((config.get("vision_cfg") or {}).get("layers", 12), int):
        strange.append("vision_cfg: layers of a ResNet")
    if strange:
        raise UserError(f"{file}: has {strange[0]}; expected one of OpenAI's ViTs, without further settings")


def to_transformers(file: Path, config: Mapping[str, Any], whole: bool) -> dict[str, Any]:
    """Return config.json of a CLIPModel, or of its vision half alone, for a `model_cfg` of open_clip."""
    plain(file, config)
    see, read = config["vision_cfg"], config["text_cfg"]
    act = "quick_gelu" if config.get("quick_gelu") else "gelu"
    wide, narrow = see.get("width", 768), read.get("width", 512)
    vision = {
        "hidden_size": wide, "intermediate_size": int(wide * see.get("mlp_ratio", 4.0)), "hidden_act": act,
        "num_hidden_layers": see.get("layers", 12), "num_attention_heads": wide // see.get("head_width", 64),
        "image_size": see.get("image_size", 224), "patch_size": see.get("patch_size", 16), "projection_dim": config["embed_dim"],
    }  # fmt: skip
    if not whole:
        return {**network(vision), "projection_dim": config["embed_dim"], **WAIST}
    words = read.get("vocab_size", 49408)
    text = {
        "hidden_size": narrow, "intermediate_size": int(narrow * read.get("mlp_ratio", 4.0)), "hidden_act": act,
        "num_hidden_layers": read.get("layers", 12), "num_attention_heads": read.get("heads", 8), "vocab_size": words,
        "max_position_embeddings": read.get("context_length", 77), "bos_token_id": words - 2, "eos_token_id": words - 1,
        "projection_dim": config["embed_dim"],
    }  # fmt: skip
    halves = {
        "vision_config": {**network(vision), **vision, "model_type": "clip_vision_model"},
        "text_config": {**network(text, TEXT), **text, "model_type": "clip_text_model"},
    }
    return {"architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": config["embed_dim"], **halves}


def to_open_clip(file: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `model_cfg` of open_clip for config.json of a CLIPModel, or of its vision half alone."""
    whole = "vision_config" in config
    see, read = network(config["vision_config"] if whole else config), network(config.get("text_config", {}), TEXT)
    if not whole:
        read["hidden_act"] = see["hidden_act"]
    wrong = {half["hidden_act"] for half in (see, read)} - ACTIVATIONS.keys()
    if wrong or see["hidden_act"] != read["hidden_act"] or {see["layer_norm_eps"], read["layer_norm_eps"]} != {1e-5}:
        raise UserError(f"{file}: has other activations or norms than open_clip's ViTs; expected one of OpenAI's")
    return {
        "embed_dim": config.get("projection_dim", WIDTH),
        "quick_gelu": ACTIVATIONS[see["hidden_act"]],
        "vision_cfg": {
            "image_size": see["image_size"], "layers": see["num_hidden_layers"], "width": see["hidden_size"],
            "head_width": see["hidden_size"] // see["num_attention_heads"], "patch_size": see["patch_size"],
            "mlp_ratio": see["intermediate_size"] / see["hidden_size"],
        },
        "text_cfg": {
            "context_length": read["max_position_embeddings"], "vocab_size": read["vocab_size"], "width": read["hidden_size"],
            "heads": read["num_attention_heads"], "layers": read["num_hidden_layers"],
            "mlp_ratio": read["intermediate_size"] / read["hidden_size"],
        },
    }  # fmt: skip
