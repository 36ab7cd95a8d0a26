"""Run the vision half of CLIP with the open_clip library: pixels in, unit-norm embeddings out.

The narrow waist is open_clip's `visual.*` with its fused attention, and what the published experts keep of the text
half: embeddings, last norm, projection and scale, which never act on an image and were not trained.
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
from nan_merge.core.files import read_json
from nan_merge.layouts import canonical, clip_configs, clip_folders
from nan_merge.layouts.clip_folders import LEFTOVERS
from nan_merge.models import zero_shot
from nan_merge.models.classification import batches

__all__ = ["Encoder", "batches", "head", "load", "logit_scale", "prepare"]

KIND = "open_clip"  # model_type in config.json of the waist
BLOCKS = "transformer."  # of the text half, which is left out


class Encoder(nn.Module):
    """Encode uint8 images (B, side, side, 3) as unit-norm embeddings (B, d); parameters are named as in the waist."""

    def __init__(self, config: Mapping[str, Any], names: Iterable[str]) -> None:
        """Build the network that `model_cfg` describes, without memory, with those leftovers that `names` have."""
        super().__init__()
        model, held = _built(config), {name.partition(".")[0] for name in names}
        self.visual = model.visual
        for part in LEFTOVERS:
            if part in held:
                setattr(self, part, getattr(model, part))
        self.side = model.visual.image_size[0]

    def forward(self, inputs: np.ndarray) -> Tensor:
        """Return unit-norm embeddings (B, d) of uint8 images (B, side, side, 3)."""
        return zero_shot.normalise(self.visual(zero_shot.normalise_pixels(inputs, self.side, self.visual.conv1.weight)))


def _built(config: Mapping[str, Any]) -> Any:
    from open_clip import CLIP

    with torch.device("meta"):
        return CLIP(**{key: config[key] for key in sorted(clip_configs.MODEL_CFG)})


def load(folder: Path | str) -> nn.Module:
    """Load a checkpoint folder, in evaluation mode and on one thread: the same bytes for any number of cores.

    Raises UserError where config.json describes no vision half of CLIP with QuickGELU or the tensors do not fit it.
    """
    torch.set_num_threads(1)
    folder = Path(folder)
    record = read_json(folder / "config.json")
    if record.get("model_type") != KIND:
        raise UserError(
            f"{folder}/config.json: model_type is {record.get('model_type')!r}, family open_clip expects {KIND!r};"
            " choose another `family:` or base in the suite"
        )
    clip_configs.check_open_clip(folder / "config.json", record["model_cfg"])
    entries = Checkpoint(folder).entries
    encoder = Encoder(record["model_cfg"], entries)
    zero_shot.load_weights(encoder, folder, entries)
    visual: Any = encoder.visual
    zero_shot.replace_activation(folder, [block.mlp for block in visual.transformer.resblocks], "gelu")
    return encoder


def prepare(
    source: Path | str,
    output: Path | str,
    base: Path | str | None = None,
    max_relative_distance: float = canonical.MAX_RELATIVE_DISTANCE,
) -> None:
    """Bring a model in open_clip's hub format, or with `base` a file that was fine-tuned from it, to the narrow waist.

    An expert is a state dict or a whole pickled module, which is never run. The blocks of the text half are left out.
    What else of the text half an expert lacks is the base's, which was frozen, so that all experts have the names of the
    base. Raises UserError for another activation or backbone, for an expert of another base (farther than `max_relative_distance`),
    for NaN and infinities, and for missing files.
    """
    model = _read(Path(source))
    if base is None:
        if not model.config:
            raise UserError(
                f"{source}: no {clip_folders.HUB_CONFIG}; expected a base in open_clip's hub format; see config/assets.yaml"
            )
        return canonical.write(model, Path(output))
    origin = _read(Path(base))
    frozen = {name for name in origin.entries if not name.startswith("visual.")}
    canonical.write(canonical.match_base(model, origin, frozen), Path(output), origin, max_relative_distance)


def _read(folder: Path) -> canonical.SourceModel:
    """Open what the waist has of a model; its config is that of the waist, or empty."""
    model = clip_folders.of_open_clip(folder)
    entries = {name: tensor for name, tensor in model.entries.items() if not name.startswith(BLOCKS)}
    if not model.config:
        return canonical.SourceModel(folder, entries, {})
    clip_configs.check_open_clip(folder, model.config["model_cfg"])
    return canonical.SourceModel(folder, entries, {"model_type": KIND, "model_cfg": model.config["model_cfg"]})


def head(classes: Sequence[str], templates: Sequence[str], tower: Path | str) -> np.ndarray:
    """Return the zero-shot head (C, d) of a folder in open_clip's hub format: unit rows, float32."""
    tower = Path(tower)
    found = clip_folders.of_open_clip(tower)
    if not found.config or not any(name.startswith(BLOCKS) for name in found.entries):
        raise UserError(
            f"{tower}: no {clip_folders.HUB_CONFIG}, or no text half; expected the base in open_clip's hub format, as it was"
            " fetched, for `text_tower:` of the suite"
        )
    clip_configs.check_open_clip(tower / clip_folders.HUB_CONFIG, found.config["model_cfg"])
    model = _built(found.config["model_cfg"])
    del model.visual
    zero_shot.load_weights(model, tower, {name: tensor for name, tensor in found.entries.items() if not name.startswith("visual.")})
    zero_shot.replace_activation(tower, [block.mlp for block in model.transformer.resblocks], "gelu")
    tokens = _tokens(list(zero_shot.fill_templates(classes, templates)), model.context_length)
    length = tokens.shape[1]
    model.positional_embedding = nn.Parameter(model.positional_embedding[:length])
    model.attn_mask = torch.full((length, length), -math.inf).triu(1)
    return zero_shot.build_head(model.encode_text, tokens, len(templates))


def _tokens(prompts: list[str], length: int) -> Tensor:
    """Return the tokens (N, n) of the prompts, cut at `length` and where all end: what is behind is never looked at."""
    from open_clip.tokenizer import SimpleTokenizer

    tokens = SimpleTokenizer()(prompts, context_length=length)
    return tokens[:, : int(tokens.argmax(1).max()) + 1]


def tokenizer() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return words and merges of the tokenizer that the library ships, with the marks of a text as transformers calls them."""
    from open_clip.tokenizer import SimpleTokenizer

    found = SimpleTokenizer()
    marks = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    return {marks.get(word, word): i for word, i in found.encoder.items()}, list(found.bpe_ranks)


def logit_scale(tower: Path | str) -> float:
    """Return the factor on cosine similarities that a model of open_clip was trained with, exp(logit_scale)."""
    return math.exp(float(clip_folders.of_open_clip(Path(tower)).entries["logit_scale"].block(0, 1)[0]))
