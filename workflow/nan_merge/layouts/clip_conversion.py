"""Convert CLIP checkpoints between open_clip and transformers; no number changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nan_merge.core.errors import UserError
from nan_merge.layouts import canonical, clip_configs, clip_folders, clip_names

PROJECTION = "visual_projection.weight"
AddFiles = Callable[[Path], object]  # adds files to a folder


def to_transformers(source: Path, output: Path, base: Path | None = None, tokenizer: AddFiles = lambda folder: None) -> list[str]:
    """Write a model of open_clip as a folder of transformers and return the names of omitted tensors.

    A model with both towers becomes a CLIPModel with its `tokenizer`, an image encoder a CLIPVisionModelWithProjection
    without the remaining text tensors of its file. A state dict or module without a config takes the config of its `base`.
    """
    if clip_folders.libraries(source) == {"transformers"}:
        raise UserError(f"{source}: is a model of transformers already; there is nothing to convert")
    model = clip_folders.of_open_clip(source)
    record = model.config or (clip_folders.of_open_clip(base).config if base else {})
    if not record:
        raise UserError(f"{source}: no {clip_folders.HUB_CONFIG}; give the model that it was fine-tuned from with --base")
    whole = any(name.startswith("transformer.") for name in model.entries)
    kept = {name: tensor for name, tensor in model.entries.items() if whole or name.startswith("visual.")}
    config = clip_configs.to_transformers(source, record["model_cfg"], whole)
    written = canonical.SourceModel(source, clip_names.to_transformers(source, kept), config)
    canonical.write(written, output, add=tokenizer if whole else lambda folder: None)
    return [name for name in model.entries if name not in kept]


def to_open_clip(source: Path, output: Path, base: Path | None = None) -> None:
    """Write a model of transformers as a folder of open_clip.

    A CLIPModel becomes a folder that open_clip reads as `local-dir:`, a vision tower a canonical checkpoint of the family
    open_clip. A CLIPVisionModel has no projection; the projection of its `base` is used.
    """
    if clip_folders.libraries(source) == {"open_clip"}:
        raise UserError(f"{source}: is a model of open_clip already; there is nothing to convert")
    model = clip_folders.of_transformers(source)
    whole = any(name.startswith("text_model.encoder.") for name in model.entries)
    entries = dict(model.entries)
    if PROJECTION not in entries and base:
        entries[PROJECTION] = clip_folders.of_transformers(base).entries[PROJECTION]
    if PROJECTION not in entries:
        raise UserError(f"{source}: no tensor '{PROJECTION}'; give the CLIPModel that it was fine-tuned from with --base")
    config: Mapping[str, Any] = {**model.config, "projection_dim": entries[PROJECTION].shape[0]}
    record: dict[str, Any] = {"model_cfg": clip_configs.to_open_clip(source / "config.json", config)}
    named = clip_names.to_open_clip(source, entries)
    if not whole:
        return canonical.write(canonical.SourceModel(source, named, {"model_type": "open_clip", **record}), output)
    record["preprocess_cfg"] = {"mean": clip_configs.MEAN, "std": clip_configs.STD}
    canonical.write(
        canonical.SourceModel(source, named, record), output, file=clip_folders.WEIGHTS[0], config=clip_folders.HUB_CONFIG
    )
