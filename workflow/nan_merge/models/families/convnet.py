"""Plain convolutional networks that are trained from random weights: from pixels to unit-norm embeddings.

A chain of 3x3 convolutions, ReLU and 2x2 max pooling, without batch norm: all parameters are weights and biases, and no running
statistics need repair after a merge. Each expert begins at random weights of its own, so the canonical base is the network of
zeros, and a task vector is the network itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from nan_merge.checkpoints.checkpoint import write_checkpoint
from nan_merge.core.errors import UserError
from nan_merge.models.classification import batches, load_tensors, read_config
from nan_merge.models.families.text_encoder import head

__all__ = ["Encoder", "batches", "build", "head", "initialise", "load"]

TYPE = "convnet"
MEAN, DEVIATION = 127.5, 127.5  # of pixels


class Encoder(nn.Module):
    """Encode uint8 images (B, side, side, 3) as unit-norm embeddings (B, d)."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Build the network of `widths` (units of every convolution) and `projection` (d)."""
        super().__init__()
        channels = [3, *config["widths"]]
        self.layers = nn.ModuleList(nn.Conv2d(*pair, 3, padding=1) for pair in itertools.pairwise(channels))
        self.projection = nn.Linear(channels[-1], config["projection"])

    @property
    def chain(self) -> list[str]:
        """The names of all layers; the inputs of each are the outputs of the one before."""
        return [*(f"layers.{number}" for number in range(len(self.layers))), "projection"]

    def activations(self, inputs: np.ndarray) -> list[Tensor]:
        """Return the outputs of every layer but the last, after ReLU: (B, units, height, width) each.

        Raises UserError for images that are too small to be halved before every layer but the first.
        """
        side = min(inputs.shape[1:3])
        if len(self.layers) > (most := side.bit_length()):
            raise UserError(
                f"network: widths: {len(self.layers)} convolutions, and images of {side} pixels are halved before each but the"
                f" first; expected at most {most}, or a larger `input: side:`"
            )
        images = torch.from_numpy(np.ascontiguousarray(inputs)).to(self.projection.weight.device)
        x, found = (images.permute(0, 3, 1, 2).float() - MEAN) / DEVIATION, []
        for number, layer in enumerate(self.layers):
            x = F.relu(layer(F.max_pool2d(x, 2) if number else x))
            found.append(x)
        return found

    def forward(self, inputs: np.ndarray) -> Tensor:
        """Return unit-norm embeddings (B, d) of uint8 images (B, side, side, 3)."""
        return F.normalize(self.projection(self.activations(inputs)[-1].mean((2, 3))), dim=1)


def load(folder: Path) -> Encoder:
    """Load a checkpoint folder; raise UserError for another architecture and tensors that do not fit its config.json."""
    encoder = Encoder(read_config(folder, TYPE, {"model_type": TYPE}))
    load_tensors(encoder, folder, load_file(folder / "model.safetensors"))
    return encoder


def build(network: Mapping[str, Any], output: Path) -> None:
    """Write the canonical base of networks that are trained from random weights: all tensors, with zeros for values."""
    with torch.device("meta"):
        tensors = Encoder(network).state_dict()
    zeros = {name: np.zeros(tensor.shape, np.float32) for name, tensor in tensors.items()}
    write_checkpoint(output, zeros, {"model_type": TYPE, **network})


@torch.no_grad()
def initialise(encoder: Encoder, seed: Sequence[int]) -> None:
    """Give every weight a normal random value of variance 2 / inputs (He et al. 2015), every bias zero."""
    random = np.random.default_rng(seed)
    for parameter in encoder.parameters():
        scale = (2 / parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else 0.0
        values = random.standard_normal(tuple(parameter.shape), np.float32) * np.float32(scale)
        parameter.copy_(torch.from_numpy(values))
