"""Tiny CLIPs with random weights in the formats of both libraries, and crops of a photograph as inputs."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from nan_merge.checkpoints.safetensors_file import NAMES, Tensor
from nan_merge.layouts import clip_conversion
from nan_merge.models.families import clip, open_clip

SIDE, WIDTH = 32, 48
CONFIG: dict[str, Any] = {
    "embed_dim": WIDTH, "quick_gelu": True,
    "vision_cfg": {"image_size": SIDE, "layers": 2, "width": 64, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2},
}  # fmt: skip
CLASSES = ["tench", "no entry / do not enter", "St. Bernard", "Kölner Dom", "3.0 mm"]
EXPERTS = ("one", "two")
TEMPLATES = ["a photo of a {}.", "a {}", "itap of the {}, a type of sign."]


def draw(seed: int, config: dict[str, Any] = CONFIG) -> Any:
    """Draw all weights of a CLIP, norms and biases included, so that every tensor changes the result."""
    from open_clip import CLIP

    torch.manual_seed(seed)
    model = CLIP(**config).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 1.0 if "ln_" in name and name.endswith("weight") else 0.0, 0.2)
    return model


def moved(model: Any, seed: int, size: float = 0.02) -> Any:
    """Return an expert of a CLIP: vision tower and projection changed by the share `size`."""
    expert, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in expert.visual.parameters():
            parameter += size * parameter.std(correction=0) * torch.randn(parameter.shape, generator=generator)
    return expert


def write_hub(folder: Path, model: Any, config: dict[str, Any] = CONFIG, **changed: Any) -> Path:
    """Write a CLIP in open_clip's hub format; `changed` are tensors that replace its own."""
    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    save_file({**model.state_dict(), **changed}, folder / "open_clip_model.safetensors")
    return folder


def write_expert(folder: Path, model: Any, prefix: str = "") -> Path:
    """Write an image encoder as in collection B: a state dict without the blocks of the text tower."""
    folder.mkdir(parents=True)
    state = {f"{prefix}{n}": value for n, value in model.state_dict().items() if not n.startswith("transformer.")}
    torch.save(state, folder / "nonlinear_finetuned.pt")
    return folder


def to_transformers(source: Path, output: Path, base: Path | None = None) -> Path:
    """Convert a folder of open_clip, with the tokenizer that the library ships."""
    clip_conversion.to_transformers(source, output, base, lambda folder: clip.write_tokenizer(folder, *open_clip.tokenizer()))
    return output


def build_world(root: Path) -> Path:
    """Write a base and two experts in the formats of both hubs (`hub`, `hf`) and as canonical checkpoints of both families."""
    base = draw(0)
    write_hub(root / "hub/base", base)
    to_transformers(root / "hub/base", root / "hf/base")
    open_clip.prepare(root / "hub/base", root / "open_clip/base")
    clip.prepare(root / "hf/base", root / "clip/base")
    for seed, name in enumerate(EXPERTS):
        write_expert(root / "hub" / name, moved(base, seed), prefix="model." if seed else "")
        open_clip.prepare(root / "hub" / name, root / "open_clip" / name, root / "open_clip/base")
        clip_conversion.to_transformers(root / "hub" / name, root / "hf" / name, root / "hub/base")
        clip.prepare(root / "hf" / name, root / "clip" / name, root / "clip/base")
    return root


class Array(Tensor):
    """A tensor in memory."""

    def __init__(self, array: np.ndarray) -> None:
        """Hold an array."""
        super().__init__(NAMES[array.dtype], array.shape)
        self.array = array

    def block(self, start: int, stop: int, buffer: np.ndarray | None = None) -> np.ndarray:
        """Return the elements `start` to `stop`."""
        return self.array.reshape(-1)[start:stop]


def photographs(count: int, side: int = SIDE) -> np.ndarray:
    """Crop squares of different sizes and positions from a photograph: (count, side, side, 3) uint8."""
    picture = Image.open(Path(matplotlib.get_data_path()) / "sample_data/grace_hopper.jpg").convert("RGB")
    rng, cuts = np.random.default_rng(0), []
    for _ in range(count):
        size = int(rng.integers(side, 400))
        left, top = (int(rng.integers(0, length - size)) for length in picture.size)
        cuts.append(picture.crop((left, top, left + size, top + size)).resize((side, side), Image.Resampling.BICUBIC))
    return np.stack([np.asarray(cut) for cut in cuts])


def normalised(images: np.ndarray) -> torch.Tensor:
    """Normalise as torchvision does, image by image: (B, 3, side, side)."""
    from torchvision import transforms

    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    steps = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])
    return torch.stack([steps(Image.fromarray(image)) for image in images])
