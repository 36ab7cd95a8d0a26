"""Classifiers of images by the transformers library: ConvNeXt, DINOv2, ResNet. The body is merged, every expert keeps its head.

The canonical checkpoint is the body under the names of the classifier, `convnext.*` and so on, with preprocessor_config.json.
Running statistics of batch norms (ResNet) are merged as all tensors are, and counters of batches are left out.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nan_merge.checkpoints.checkpoint import Checkpoint
from nan_merge.core.errors import UserError
from nan_merge.core.text import read_mapping
from nan_merge.layouts import canonical
from nan_merge.layouts.canonical import MAX_RELATIVE_DISTANCE
from nan_merge.layouts.names import join_first
from nan_merge.layouts.network import check_network
from nan_merge.models.classification import as_floats, batches, load_tensors
from nan_merge.models.heads import BIAS, ROWS
from nan_merge.models.zero_shot import normalise_pixels

__all__ = ["Encoder", "batches", "extract_head", "load", "prepare"]

KINDS = ("convnext", "dinov2", "resnet")  # model types of config.json
RENAMED = {  # parts of names in files -> in the modules of transformers 5
    "attention.attention.query.": "attention.q_proj.",
    "attention.attention.key.": "attention.k_proj.",
    "attention.attention.value.": "attention.v_proj.",
    "attention.output.dense.": "attention.o_proj.",
}
PROCESSOR = "preprocessor_config.json"
COUNTER = "num_batches_tracked"  # of batch norms: read in training only
HEAD = re.compile(r"classifier(\.\d+)?\.(weight|bias)")


class Encoder(nn.Module):
    """Encode uint8 images (B, side, side, 3) as what enters the head, (B, d); parameters have canonical names."""

    def __init__(self, config: Mapping[str, Any], processor: Mapping[str, Any]) -> None:
        """Build the classifier without values and without its last layer."""
        from transformers import AutoConfig, AutoModelForImageClassification
        from transformers.initialization import no_init_weights

        super().__init__()
        plain = {key: value for key, value in config.items() if key not in ("dtype", "torch_dtype")}
        with no_init_weights():
            model: Any = AutoModelForImageClassification.from_config(AutoConfig.for_model(**plain))
        if isinstance(model.classifier, nn.Sequential):
            model.classifier[-1] = nn.Identity()
        else:
            model.classifier = nn.Identity()
        self.stem, self.processor = model.base_model_prefix, processor
        self.add_module(self.stem, getattr(model, self.stem))
        object.__setattr__(self, "whole", model)  # no part of this module, so that names are those of the classifier

    def forward(self, inputs: np.ndarray) -> Tensor:
        """Return what enters the head: (B, d) of uint8 images (B, side, side, 3)."""
        like = next(self.parameters())
        pixels = normalise_pixels(inputs, _side(self.processor), like, self.processor["image_mean"], self.processor["image_std"])
        return self.whole(pixel_values=pixels).logits  # type: ignore[operator]

    def wanted(self) -> list[str]:
        """Return the names of the canonical checkpoint."""
        return [name for name in self.state_dict() if not name.endswith(COUNTER)]


def _side(processor: Mapping[str, Any]) -> int:
    """Return the side of the images that a processor makes, in pixels."""
    found = processor["crop_size"] if processor.get("do_center_crop") else processor["size"]
    return int(found if isinstance(found, int) else found.get("height", found.get("shortest_edge")))


def load(folder: Path) -> Encoder:
    """Load a checkpoint folder as float32.

    Raises UserError for another architecture, tensors that do not fit its config, and negative variances, which a merge makes.
    """
    torch.set_num_threads(1)
    encoder = Encoder(_config(folder), read_mapping(folder / PROCESSOR))
    tensors = {name: torch.from_numpy(array) for name, array in as_floats(Checkpoint(folder).entries).items()}
    counters = {name: tensor for name, tensor in encoder.state_dict().items() if name.endswith(COUNTER)}
    load_tensors(encoder, folder, {**tensors, **counters})
    if negative := [name for name, tensor in tensors.items() if name.endswith("running_var") and bool((tensor < 0).any())]:
        raise UserError(
            f"{folder}: {len(negative)} variances of batch norms have negative numbers: {join_first(negative)}; expected none."
            " Write `merge: {exclude: ['running_(mean|var)$']}` in the suite, which keeps the base's, or leave this method out"
        )
    return encoder


def prepare(source: Path, output: Path, base: Path | None = None, max_relative_distance: float = MAX_RELATIVE_DISTANCE) -> None:
    """Write the body of a classifier under canonical names, with `base` that of an expert fine-tuned from it.

    All models of a suite are scored with the processor of the base. Raises UserError for another architecture, a missing tensor
    or processor, an expert of another base (distance above `max_relative_distance`) or network, and NaN and infinities.
    """
    model, processor = _body(source), (base or source) / PROCESSOR
    _check_processor(processor)

    def add(folder: Path) -> None:
        shutil.copyfile(processor, folder / PROCESSOR)

    if base is None:
        return canonical.write(model, output, add=add)
    origin = _body(base)
    check_network(source.name, Checkpoint(source), Checkpoint(base), [])
    canonical.write(canonical.match_base(model, origin), output, origin, max_relative_distance, add=add)


def extract_head(source: Path) -> dict[str, np.ndarray]:
    """Return the rows (C, d) and biases (C,) of the head of a fetched classifier; raise UserError for a model without one."""
    _config(source)
    found = {HEAD.fullmatch(name)[2]: tensor for name, tensor in Checkpoint(source).entries.items() if HEAD.fullmatch(name)}  # type: ignore[index]
    if found.keys() != {"weight", "bias"}:
        raise UserError(
            f"{source}: no tensors 'classifier.weight' and 'classifier.bias'; expected a classifier with its head (`head: expert`"
            " of the suite). Correct `experts:` of the suite"
        )
    return as_floats({ROWS: found["weight"], BIAS: found["bias"]})


def _config(folder: Path) -> dict[str, Any]:
    config = read_mapping(folder / "config.json")
    if (found := config.get("model_type")) not in KINDS:
        raise UserError(
            f"{folder}/config.json: model_type is {found!r}; family image_classification has {', '.join(KINDS)}; correct `base:`"
            " or `experts:` of the suite, or choose another `family:`"
        )
    return config


def _check_processor(file: Path) -> None:
    if not file.is_file():
        raise UserError(f"{file}: there is no such file; name it in `members:` of the base's asset, and lock it again")
    processor = read_mapping(file)
    if missing := [key for key in ("image_mean", "image_std", "size") if key not in processor]:
        raise UserError(f"{file}: no key '{missing[0]}'; expected that of an image processor; fetch the base again")


def _renamed(name: str) -> str:
    for old, new in RENAMED.items():
        name = name.replace(old, new)
    return name


def _body(folder: Path) -> canonical.SourceModel:
    """Open the body of a classifier, with or without the stem in its names; other tensors are left out."""
    config = _config(folder)
    encoder = Encoder(config, {})
    stem = f"{encoder.stem}."
    stored = {stem + _renamed(name.removeprefix(stem)): tensor for name, tensor in Checkpoint(folder).entries.items()}
    wanted = encoder.wanted()
    if missing := [name for name in wanted if name not in stored]:
        raise UserError(
            f"{folder}: {len(missing)} of {len(wanted)} tensors are missing: {join_first(missing)}; expected the body that its"
            " config.json describes; fetch the model again, or correct `base:` or `experts:` of the suite"
        )
    return canonical.SourceModel(folder, {name: stored[name] for name in wanted}, config)
