"""Vision tower of CLIP by the open_clip library: from pixels to unit-norm embeddings.

The canonical checkpoint has open_clip's `visual.*` with fused attention, and those tensors of the text tower that published
experts keep: embeddings, last norm, projection and scale. They do not act on images and were not trained.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nan_merge.checkpoints.checkpoint import Checkpoint
from nan_merge.core.errors import UserError
from nan_merge.layouts import canonical, clip_configs, clip_folders
from nan_merge.layouts.canonical import MAX_RELATIVE_DISTANCE
from nan_merge.layouts.clip_folders import LEFTOVERS
from nan_merge.models import zero_shot
from nan_merge.models.classification import batches, read_config
from nan_merge.models.prompts import fill_templates

__all__ = ["Encoder", "batches", "head", "load", "prepare"]

KIND = "open_clip"  # model_type in config.json of a canonical checkpoint
BLOCKS = "transformer."  # of the text tower, omitted


class Encoder(nn.Module):
    """Encode uint8 images (B, side, side, 3) as unit-norm embeddings (B, d); parameters have canonical names."""

    def __init__(self, config: Mapping[str, Any], names: Iterable[str]) -> None:
        """Build the network of `model_cfg` on the meta device, with those LEFTOVERS that occur in `names`."""
        super().__init__()
        model, kept = _built(config), {name.partition(".")[0] for name in names}
        self.visual = model.visual
        for part in LEFTOVERS:
            if part in kept:
                setattr(self, part, getattr(model, part))
        self.side = model.visual.image_size[0]

    def forward(self, inputs: np.ndarray) -> Tensor:
        """Return unit-norm embeddings (B, d) of uint8 images (B, side, side, 3)."""
        return zero_shot.normalise(self.visual(zero_shot.normalise_pixels(inputs, self.side, self.visual.conv1.weight)))


def _built(config: Mapping[str, Any]) -> Any:
    from open_clip import CLIP

    with torch.device("meta"):
        return CLIP(**{key: config[key] for key in sorted(clip_configs.MODEL_CFG)})


def load(folder: Path) -> nn.Module:
    """Load a checkpoint folder; raise UserError for another model than a vision tower of CLIP with QuickGELU."""
    record = read_config(folder, "open_clip", {"model_type": KIND})
    clip_configs.check_open_clip(folder / "config.json", record["model_cfg"])
    entries = Checkpoint(folder).entries
    encoder = Encoder(record["model_cfg"], entries)
    zero_shot.load_weights(encoder, folder, entries)
    visual: Any = encoder.visual
    zero_shot.replace_activation(folder, [block.mlp for block in visual.transformer.resblocks], "gelu")
    return encoder


def prepare(source: Path, output: Path, base: Path | None = None, max_relative_distance: float = MAX_RELATIVE_DISTANCE) -> None:
    """Write the canonical checkpoint of a model in open_clip's hub format, or with `base` of a file fine-tuned from it.

    An expert is a state dict or a whole pickled module, which is never run. The blocks of the text tower are omitted; other
    text tensors that an expert lacks are the base's, which were frozen, so all experts have the names of the base.
    Raises UserError for another activation or backbone, an expert of another base (distance above
    `max_relative_distance`), NaN and infinities, and missing files.
    """
    model = _read(source)
    if base is None:
        if not model.config:
            raise UserError(
                f"{source}: no {clip_folders.HUB_CONFIG}; expected a base in open_clip's hub format; see config/assets.yaml"
            )
        return canonical.write(model, output)
    origin = _read(base)
    frozen = {name for name in origin.entries if not name.startswith("visual.")}
    canonical.write(canonical.match_base(model, origin, frozen), output, origin, max_relative_distance)


def _read(folder: Path) -> canonical.SourceModel:
    """Open the canonical tensors of a model with their config, which is empty for a file without one."""
    model = clip_folders.of_open_clip(folder)
    entries = {name: tensor for name, tensor in model.entries.items() if not name.startswith(BLOCKS)}
    if not model.config:
        return canonical.SourceModel(folder, entries, {})
    clip_configs.check_open_clip(folder, model.config["model_cfg"])
    return canonical.SourceModel(folder, entries, {"model_type": KIND, "model_cfg": model.config["model_cfg"]})


def head(classes: Sequence[str], templates: Sequence[str], tower: Path) -> np.ndarray:
    """Return the zero-shot head (C, d) of a folder in open_clip's hub format: unit rows, float32."""
    source = clip_folders.of_open_clip(tower)
    if not source.config or not any(name.startswith(BLOCKS) for name in source.entries):
        raise UserError(
            f"{tower}: no {clip_folders.HUB_CONFIG}, or no text tower; expected the base in open_clip's hub format, as it was"
            " fetched, for `text_tower:` of the suite"
        )
    clip_configs.check_open_clip(tower / clip_folders.HUB_CONFIG, source.config["model_cfg"])
    model = _built(source.config["model_cfg"])
    del model.visual
    entries = {name: tensor for name, tensor in source.entries.items() if not name.startswith("visual.")}
    zero_shot.load_weights(model, tower, entries)
    zero_shot.replace_activation(tower, [block.mlp for block in model.transformer.resblocks], "gelu")
    tokens = _tokens(fill_templates(classes, templates), model.context_length)
    length = tokens.shape[1]
    model.positional_embedding = nn.Parameter(model.positional_embedding[:length])
    model.attn_mask = torch.full((length, length), -math.inf).triu(1)
    return zero_shot.build_head(model.encode_text, tokens, len(templates))


def _tokens(prompts: list[str], length: int) -> Tensor:
    """Return the tokens (N, n) of the prompts, truncated to `length` and to the longest prompt."""
    from open_clip.tokenizer import SimpleTokenizer

    tokens = SimpleTokenizer()(prompts, context_length=length)
    return tokens[:, : int(tokens.argmax(1).max()) + 1]


def tokenizer() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return vocabulary and merges of the library's tokenizer, with the names of special tokens in transformers."""
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer()
    special = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    return {special.get(token, token): i for token, i in tokenizer.encoder.items()}, list(tokenizer.bpe_ranks)
