"""Vision tower of CLIP by the transformers library: from pixels to unit-norm embeddings.

The canonical checkpoint has the names of `CLIPVisionModelWithProjection`: `vision_model.*`, `visual_projection.weight`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nan_merge.checkpoints.checkpoint import Checkpoint
from nan_merge.core.errors import UserError
from nan_merge.layouts import canonical, clip_configs, clip_folders
from nan_merge.layouts.canonical import MAX_RELATIVE_DISTANCE
from nan_merge.models import zero_shot
from nan_merge.models.classification import batches, read_config
from nan_merge.models.prompts import fill_templates

__all__ = ["Encoder", "batches", "head", "load", "prepare"]

PROJECTION = "visual_projection.weight"


class Encoder(nn.Module):
    """Encode uint8 images (B, side, side, 3) as unit-norm embeddings (B, d); parameters have canonical names."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        super().__init__()
        with torch.device("meta"):
            model: Any = CLIPVisionModelWithProjection(CLIPVisionConfig(**config))
        self.vision_model, self.visual_projection = model.vision_model, model.visual_projection
        self.side = config["image_size"]
        _count_positions(self)

    def forward(self, inputs: np.ndarray) -> Tensor:
        """Return unit-norm embeddings (B, d) of uint8 images (B, side, side, 3)."""
        pixels = zero_shot.normalise_pixels(inputs, self.side, self.visual_projection.weight)
        pooled = self.vision_model(pixel_values=pixels).pooler_output
        return zero_shot.normalise(self.visual_projection(pooled))


def _count_positions(model: nn.Module) -> None:
    """Fill the only buffers of the library's modules, position_ids, with 0, 1, 2, ..."""
    for module in model.modules():
        ids = getattr(module, "position_ids", None)
        if isinstance(ids, Tensor):
            module.position_ids = torch.arange(ids.shape[-1]).expand(1, -1)


def load(folder: Path) -> nn.Module:
    """Load a checkpoint folder; raise UserError for another model than a vision tower of CLIP with QuickGELU."""
    config = read_config(folder, "clip", {"model_type": "clip_vision_model"})
    network = _network(folder, config)
    encoder = Encoder({**network, "projection_dim": config.get("projection_dim", clip_configs.WIDTH)})
    zero_shot.load_weights(encoder, folder, Checkpoint(folder).entries)
    layers: Any = encoder.vision_model.encoder.layers
    zero_shot.replace_activation(folder, [layer.mlp for layer in layers], "activation_fn")
    return encoder


def _network(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    network = clip_configs.network(config.get("vision_config", config))
    clip_configs.check_transformers(folder / "config.json", network)
    return network


def prepare(source: Path, output: Path, base: Path | None = None, max_relative_distance: float = MAX_RELATIVE_DISTANCE) -> None:
    """Write the canonical checkpoint of a CLIPModel, or with `base` of a CLIPVisionModel fine-tuned from it.

    An expert without a projection gets the base's, which was frozen. Raises UserError for another activation or backbone,
    an expert of another base (distance above `max_relative_distance`), NaN and infinities, and missing files.
    """
    model = _read(source)
    if base is None:
        if PROJECTION not in model.entries:
            raise UserError(f"{source}: no tensor '{PROJECTION}'; expected a whole CLIPModel as the base; see config/assets.yaml")
        return canonical.write(model, output)
    origin = _read(base)
    for key in clip_configs.VISION:
        if model.config[key] != origin.config[key]:
            raise UserError(
                f"{source}/config.json: {key} is {model.config[key]!r}, that of the base {base} is {origin.config[key]!r};"
                " expected an expert with the backbone of the base. Correct `base:` or `experts:` of the suite"
            )
    canonical.write(canonical.match_base(model, origin, {PROJECTION}), output, origin, max_relative_distance)


def _read(folder: Path) -> canonical.SourceModel:
    """Open the vision tower of a CLIPModel, a CLIPVisionModel or a canonical checkpoint."""
    model = clip_folders.of_transformers(folder)
    entries = {n: tensor for n, tensor in model.entries.items() if n.startswith(clip_folders.STEM) or n == PROJECTION}
    width = entries[PROJECTION].shape[0] if PROJECTION in entries else clip_configs.WIDTH
    return canonical.SourceModel(
        folder, entries, {**_network(folder, model.config), "projection_dim": width, **clip_configs.CANONICAL}
    )


def head(classes: Sequence[str], templates: Sequence[str], tower: Path) -> np.ndarray:
    """Return the zero-shot head (C, d) of a CLIPModel folder with its tokenizer: unit rows, float32."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    source = clip_folders.of_transformers(tower)
    if "text_config" not in source.config:
        raise UserError(f"{tower}: no text tower; expected a whole CLIPModel, as it was fetched, for `text_tower:` of the suite")
    network = clip_configs.network(source.config["text_config"], clip_configs.TEXT)
    clip_configs.check_transformers(tower / "config.json", network)
    width = source.config.get("projection_dim", clip_configs.WIDTH)
    with torch.device("meta"):
        model: Any = CLIPTextModelWithProjection(CLIPTextConfig(**network, projection_dim=width))
    _count_positions(model)
    zero_shot.load_weights(model, tower, {name: tensor for name, tensor in source.entries.items() if name.startswith("text_")})
    zero_shot.replace_activation(tower, [layer.mlp for layer in model.text_model.encoder.layers], "activation_fn")
    tokens = _tokens(fill_templates(classes, templates), tower, network["max_position_embeddings"])
    return zero_shot.build_head(lambda part: model(input_ids=part).text_embeds, tokens, len(templates))


def _tokens(prompts: list[str], tower: Path, length: int) -> Tensor:
    """Return the tokens (N, n) of the prompts, padded to the longest and truncated to `length`.

    DIFFERS: OpenAI and open_clip first repair broken Unicode and HTML entities; class names have none.
    """
    from transformers import CLIPTokenizer

    if not (tower / "tokenizer.json").is_file() and not (tower / "vocab.json").is_file():
        raise UserError(f"{tower}: no tokenizer.json, nor vocab.json and merges.txt; see config/assets.yaml")
    tokenizer = CLIPTokenizer.from_pretrained(str(tower), local_files_only=True)
    return tokenizer(prompts, padding=True, truncation=True, max_length=length, return_tensors="pt")["input_ids"]


def write_tokenizer(folder: Path, vocabulary: Mapping[str, int], merges: Sequence[Any]) -> None:
    """Write the tokenizer of a CLIPModel from its vocabulary and merges, as `head` and the library read it."""
    from transformers import CLIPTokenizer

    CLIPTokenizer(vocab=dict(vocabulary), merges=list(merges)).save_pretrained(str(folder))
