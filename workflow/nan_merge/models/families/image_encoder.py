"""EfficientNet-Lite0 with a projection into the text tower's space: from pixels to unit-norm embeddings.

Batch norm is folded into the convolutions (Jacob et al. 2018, section 3.2), so every parameter is a weight or a bias that
merges linearly, and no running statistics need repair. timm and torchvision are not used: torch alone starts twice as fast,
and a run starts some sixty processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from nan_merge.checkpoints.checkpoint import write_checkpoint
from nan_merge.core.errors import UserError
from nan_merge.layouts.canonical import MAX_RELATIVE_DISTANCE, copy_expert
from nan_merge.models.classification import batches, load_tensors, read_config
from nan_merge.models.families.text_encoder import head

__all__ = ["Encoder", "batches", "fold", "head", "load", "prepare"]

EPS = 1e-3  # of EfficientNet's batch norm
SEED = 0  # of the initial projection, which the alignment replaces
CONFIG: dict[str, Any] = {
    "model_type": "efficientnet_lite0_folded",
    "stem": 32,
    "head": 1280,
    "projection": 384,
    # repeats, kernel, stride, expansion, in, out (Tan and Le 2019, table 1; Lite: no squeeze-excite, ReLU6)
    "stages": [
        [1, 3, 1, 1, 32, 16],
        [2, 3, 2, 6, 16, 24],
        [2, 5, 2, 6, 24, 40],
        [3, 3, 2, 6, 40, 80],
        [3, 5, 1, 6, 80, 112],
        [4, 5, 2, 6, 112, 192],
        [1, 3, 1, 6, 192, 320],
    ],
}


class Block(nn.Module):
    """Inverted residual: expand, depthwise, project; the input is added if shapes match (Sandler et al. 2018)."""

    def __init__(self, kernel: int, stride: int, expansion: int, inner: int, outer: int) -> None:
        super().__init__()
        width = inner * expansion
        self.expand = nn.Conv2d(inner, width, 1) if expansion > 1 else None
        self.depthwise = nn.Conv2d(width, width, kernel, stride, kernel // 2, groups=width)
        self.project = nn.Conv2d(width, outer, 1)
        self.skip = stride == 1 and inner == outer

    def forward(self, x: Tensor) -> Tensor:
        """Map features (B, inner, h, w) to (B, outer, h / stride, w / stride)."""
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(y)))
        return x + y if self.skip else y


class Encoder(nn.Module):
    """Encode uint8 images (B, side, side, 3) as unit-norm embeddings (B, d)."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, config["stem"], 3, 2, 1)
        self.blocks = nn.ModuleList(
            Block(kernel, stride if i == 0 else 1, expansion, inner if i == 0 else outer, outer)
            for repeats, kernel, stride, expansion, inner, outer in config["stages"]
            for i in range(repeats)
        )
        self.head = nn.Conv2d(config["stages"][-1][-1], config["head"], 1)
        self.projection = nn.Linear(config["head"], config["projection"])

    def features(self, inputs: np.ndarray) -> Tensor:
        """Return the input of the projection: pooled features (B, head)."""
        # ASSUME: (x - 127) / 128, as in TensorFlow's Lite checkpoints. channels_last halves the time per step.
        images = torch.from_numpy(np.ascontiguousarray(inputs)).to(self.stem.weight.device)
        pixels = (images.permute(0, 3, 1, 2).float() - 127) / 128
        x = F.relu6(self.stem(pixels.contiguous(memory_format=torch.channels_last)))
        for block in self.blocks:
            x = block(x)
        return F.relu6(self.head(x)).mean((2, 3))

    def forward(self, inputs: np.ndarray) -> Tensor:
        """Return unit-norm embeddings (B, d) of uint8 images (B, side, side, 3)."""
        return F.normalize(self.projection(self.features(inputs)), dim=1)


def load(folder: Path) -> Encoder:
    """Load a checkpoint folder; raise UserError for another architecture and tensors that do not fit its config.json."""
    encoder = Encoder(read_config(folder, "image_encoder", {"model_type": CONFIG["model_type"]}))
    load_tensors(encoder, folder, load_file(folder / "model.safetensors"))
    return encoder.to(memory_format=torch.channels_last)


def prepare(source: Path, output: Path, base: Path | None = None, max_relative_distance: float = MAX_RELATIVE_DISTANCE) -> None:
    """Write the canonical checkpoint of the ImageNet checkpoint (*.pth) in `source`, with folded batch norms.

    The classifier is omitted; the projection has seeded random values. With `base`, the source is a canonical expert of it
    and is copied after checks (`layouts.canonical.copy_expert`).
    """
    if base is not None:
        return copy_expert(source, output, base, max_relative_distance)
    files = sorted(source.glob("*.pth"))
    if len(files) != 1:
        raise UserError(f"{source}: expected one *.pth of EfficientNet-Lite0, found {len(files)}; see config/assets.yaml")
    state = torch.load(files[0], map_location="cpu", weights_only=True)
    try:
        folded = fold(state, CONFIG)
    except KeyError as error:
        raise UserError(f"{files[0]}: no tensor {error}; expected the names of efficientnet_lite_pytorch") from None
    write_checkpoint(output, folded, CONFIG)


def fold(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the encoder's tensors from a checkpoint of convolutions and batch norms.

    w' = w g / sqrt(v + eps), b' = beta - mean g / sqrt(v + eps) for scale g, shift beta and running mean and v.
    """
    with torch.device("meta"):
        names = list(Encoder(config).state_dict())
    random = torch.Generator().manual_seed(SEED)
    tensors = {
        "projection.weight": torch.randn(config["projection"], config["head"], generator=random) * config["head"] ** -0.5,
        "projection.bias": torch.zeros(config["projection"]),
    }
    for module in {name.rpartition(".")[0]: None for name in names if not name.startswith("projection.")}:
        block, _, part = module.rpartition(".")
        prefix = block.replace("blocks", "_blocks") + "." if block else ""
        convolution, norm = (prefix + name for name in SHIPPED[part])
        scale = state[f"{norm}.weight"] / torch.sqrt(state[f"{norm}.running_var"] + EPS)
        tensors[f"{module}.weight"] = state[f"{convolution}.weight"] * scale[:, None, None, None]
        tensors[f"{module}.bias"] = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
    return {name: tensors[name].contiguous().numpy() for name in names}


SHIPPED = {  # module -> convolution and batch norm of the shipped checkpoint
    "stem": ("_conv_stem", "_bn0"), "expand": ("_expand_conv", "_bn0"), "depthwise": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"), "head": ("_conv_head", "_bn1"),
}  # fmt: skip
