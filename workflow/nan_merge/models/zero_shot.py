"""Functions shared by the CLIP families (Radford et al. 2021): pixels, activation, weights, zero-shot heads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nan_merge.checkpoints.safetensors_file import Tensor as StoredTensor
from nan_merge.core.errors import UserError
from nan_merge.layouts.clip_configs import MEAN, STD
from nan_merge.models.classification import as_floats, load_tensors
from nan_merge.models.onednn import accelerate
from nan_merge.models.prompts import BATCH


def normalise_pixels(
    inputs: np.ndarray, side: int, like: Tensor, mean: Sequence[float] = MEAN, std: Sequence[float] = STD
) -> Tensor:
    """Return (pixels / 255 - mean) / std, (B, 3, side, side), of uint8 images (B, side, side, 3), on the device of `like`."""
    if inputs.shape[1:] != (side, side, 3):
        raise UserError(
            f"the images are {list(inputs.shape[1:])}, the model expects {[side, side, 3]}; correct `input: side:` of the suite"
        )
    pixels = torch.from_numpy(np.require(inputs, requirements=["C", "W"])).to(like.device).float()
    mu, sigma = (torch.tensor(numbers, device=like.device) for numbers in (mean, std))
    return pixels.div_(255).sub_(mu).div_(sigma).permute(0, 3, 1, 2).to(like.dtype)


def normalise(embeddings: Tensor) -> Tensor:
    """Return embeddings (B, d) at unit length; 16-bit embeddings of autocast become float32."""
    return F.normalize(embeddings.float() if embeddings.itemsize < 4 else embeddings, dim=1)


def load_weights(model: nn.Module, folder: Path, entries: Mapping[str, StoredTensor]) -> None:
    """Load the tensors of `folder`, by the names of the model, as float32 into a model on the meta device."""
    load_tensors(model, folder, {name: torch.from_numpy(array) for name, array in as_floats(entries).items()})
    accelerate(model)


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x); without gradients it allocates one array, where the libraries allocate three."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation of every element."""
        if torch.is_grad_enabled():
            return x * torch.sigmoid(1.702 * x)
        return torch.mul(x, 1.702).sigmoid_().mul_(x)


def replace_activation(folder: Path, parts: Iterable[nn.Module], name: str) -> None:
    """Replace the activation `name` of each module by the faster QuickGELU above; raise UserError if it is another one."""
    x = torch.linspace(-6, 6, 49)
    for part in parts:
        activation: Any = getattr(part, name)
        if not torch.allclose(activation(x), QuickGELU()(x), atol=1e-6):
            raise UserError(f"{folder}: the activation of the library is {activation}; expected QuickGELU, x sigmoid(1.702 x)")
        setattr(part, name, QuickGELU())


@torch.inference_mode()
def build_head(encode: Callable[[Tensor], Tensor], tokens: Tensor, templates: int) -> np.ndarray:
    """Return a head (C, d) of unit rows from the tokens (C * templates, n) of all prompts, class by class.

    A row is the mean of the unit embeddings of the class's prompts, normalised again.
    """
    torch.set_num_threads(1)
    features = torch.cat([normalise(encode(part)) for part in tokens.split(BATCH)])
    return F.normalize(features.unflatten(0, (-1, templates)).mean(1), dim=1).float().numpy()
