"""Tiny classifiers of images by transformers, in the files of their originals on the hub: bases and experts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

SIDE, RESIZE = 32, 36
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "convnext": ("ConvNext", {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 2, 1], "layer_scale_init_value": 0.5}),
    "dinov2": ("Dinov2", {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": SIDE,
                          "patch_size": 8}),
    "resnet": ("ResNet", {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "bottleneck"}),
}  # fmt: skip


def classifier(kind: str, labels: int, seed: int = 0, origin: Any = None, change: float = 0.02) -> Any:
    """Return a classifier with a random head; its body is random, or that of `origin` moved by random steps.

    Running statistics of batch norms are those of random pictures, and differ between models too.
    """
    import transformers

    name, sizes = KINDS[kind]
    torch.manual_seed(seed)
    config = getattr(transformers, f"{name}Config")(**sizes, num_labels=labels, initializer_range=0.2)
    model = getattr(transformers, f"{name}ForImageClassification")(config)
    if origin is not None:
        body = getattr(model, model.base_model_prefix)
        body.load_state_dict(getattr(origin, origin.base_model_prefix).state_dict())
        with torch.no_grad():
            for parameter in body.parameters():
                parameter += change * torch.randn(parameter.shape)
    if kind == "resnet":
        model.train()
        with torch.no_grad():
            for _ in range(10):
                model(pixel_values=torch.randn(8, 3, SIDE, SIDE))
    return model.eval()


def publish(folder: Path, model: Any, processor: bool = False) -> Path:
    """Save a classifier, a base with its processor: of DINOv2 by its crop, of the others by its size."""
    model.save_pretrained(folder)
    if processor:
        crops = model.config.model_type == "dinov2"
        sizes = (
            {"do_center_crop": True, "crop_size": {"height": SIDE, "width": SIDE}, "size": {"shortest_edge": RESIZE}}
            if crops
            else {"size": {"shortest_edge": SIDE}, "crop_pct": SIDE / RESIZE}
        )
        record = {"image_mean": MEAN, "image_std": STD, "resample": 3, **sizes}
        (folder / "preprocessor_config.json").write_text(json.dumps(record))
    return folder


def logits(model: Any, images: Any) -> torch.Tensor:
    """Return the logits (N, C) of uint8 images (N, side, side, 3), one image at a time."""
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    with torch.inference_mode():
        rows = [((torch.from_numpy(image.copy()) / 255 - mean) / std).permute(2, 0, 1)[None] for image in images]
        return torch.cat([model(pixel_values=row.float()).logits for row in rows])
