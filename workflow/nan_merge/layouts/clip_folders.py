"""Open folders of CLIP models from the hub or from disk, with the tensor names of their library."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nan_merge.checkpoints.checkpoint import Checkpoint, read_file
from nan_merge.checkpoints.pickles import pickled_model
from nan_merge.core.errors import UserError
from nan_merge.core.text import is_given, read_mapping
from nan_merge.layouts.canonical import SourceModel
from nan_merge.layouts.names import is_buffer

STEM = "vision_model."
PARTS = ("embeddings.", "pre_layrnorm.", "encoder.", "post_layernorm.")  # starts of names without the stem
OTHERS = ("visual_projection.", "text_model.", "text_projection.", "logit_scale")
TYPES = ("clip", "clip_vision_model")  # `model_type` of transformers
HUB_CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors")  # hub, hub, canonical checkpoint
ANCHOR = "visual.conv1.weight"  # text before it in a name is a prefix of a training program
LEFTOVERS = ("positional_embedding", "text_projection", "logit_scale", "token_embedding", "ln_final")
TOWERS = ("visual", "transformer", *LEFTOVERS)


def libraries(folder: Path) -> set[str]:
    """Return the libraries whose configs a folder holds; a file without one is of open_clip, which fine-tuning programs use."""
    if folder.is_file():
        return {"open_clip"}
    record = read_mapping(folder / "config.json") if is_given(folder / "config.json") else {}
    found = {"open_clip": bool(_config(folder)), "transformers": record.get("model_type") in TYPES}
    return {library for library, is_there in found.items() if is_there}


def of_transformers(folder: Path) -> SourceModel:
    """Open a CLIPModel, a CLIPVisionModel with or without stem in its names, or a canonical checkpoint; else raise UserError."""
    config = read_mapping(folder / "config.json")
    if config.get("model_type") not in TYPES:
        raise UserError(
            f"{folder}/config.json: model_type is {config.get('model_type')!r}; expected 'clip' or 'clip_vision_model' (family"
            " clip); see config/assets.yaml, or choose another `family:` in the suite"
        )
    entries = {}
    for name, tensor in Checkpoint(folder).entries.items():
        short = name.rpartition(STEM)[2]
        if is_buffer(name, tensor):
            continue
        if short.startswith(PARTS):
            entries[STEM + short] = tensor
        elif name.startswith(OTHERS):
            entries[name] = tensor
    return SourceModel(folder, entries, config)


def of_open_clip(folder: Path) -> SourceModel:
    """Open a hub folder, a canonical checkpoint, or a folder with a single weight file at any depth and no config.

    The file is a state dict or a whole pickled module (never run), with or without a prefix in its names.
    Raises UserError for a file without an image encoder of open_clip and for another activation than QuickGELU.
    """
    file = _weights(folder)
    tensors, classes = (read_file(file), {}) if file.suffix == ".safetensors" else pickled_model(file)
    prefixes = [name.removesuffix(ANCHOR) for name in tensors if name.endswith(ANCHOR)]
    if len(prefixes) != 1:
        raise UserError(f"{file}: {len(prefixes)} tensors are named '{ANCHOR}'; expected one image encoder of open_clip")
    wrong = [f"'{name}' is {kind}" for name, kind in classes.items() if name.endswith(".mlp.gelu") and kind != "QuickGELU"]
    if wrong:
        raise UserError(f"{file}: {wrong[0]}; expected QuickGELU, which OpenAI's CLIP was trained with; use another expert")
    named = {name.removeprefix(prefixes[0]): tensor for name, tensor in tensors.items() if name.startswith(prefixes[0])}
    weights = {name: tensor for name, tensor in named.items() if tensor.is_float and not is_buffer(name, tensor)}
    entries = {name: tensor for name, tensor in weights.items() if name.partition(".")[0] in TOWERS}
    return SourceModel(folder, entries, _config(folder))


def _config(folder: Path) -> Mapping[str, Any]:
    """Return the config that holds `model_cfg`, or an empty one."""
    for file in (folder / HUB_CONFIG, folder / "config.json"):
        record = read_mapping(file) if is_given(file) else {}
        if isinstance(record.get("model_cfg"), dict):
            return record
    return {}


def _weights(folder: Path) -> Path:
    """Return the weight file of a folder: one of WEIGHTS, or the only weight file at any depth."""
    if folder.is_file():
        return folder
    named = [folder / name for name in WEIGHTS if is_given(folder / name)]
    kinds = (".pt", ".pth", ".bin", ".safetensors")
    files = named[:1] or sorted(file for file in folder.rglob("*") if file.suffix in kinds and file.is_file())
    if len(files) != 1:
        names = ", ".join(str(file.relative_to(folder)) for file in files[:8]) or "none"
        raise UserError(f"{folder}: {len(files)} weight files ({names}); expected one, {WEIGHTS[0]} or a *.pt")
    return files[0]
