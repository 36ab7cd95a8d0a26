"""Inputs of AdaMerging, the same for both programs: a CLIP image encoder of transformers, images, and a head a task.

Imported here and by the Python of FusionBench's environment: transformers, torch and NumPy only.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

EXAMPLES, CLASSES, SCALE = 12, 5, 100.0


class Encoder(CLIPVisionModel):
    """Pixels (B, 3, side, side) in, unit-norm embeddings (B, d) out, under the names that transformers gives the tensors."""

    def forward(self, pixels: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Encode an array, or a tensor, in the type of the weights."""
        weight = self.embeddings.position_embedding.weight
        found = super().forward(torch.as_tensor(pixels).to(weight.dtype)).pooler_output
        return found / found.norm(dim=-1, keepdim=True)


def load(folder: Path, tensors: Mapping[str, torch.Tensor]) -> Encoder:
    """Build the encoder that `config.json` of a folder describes, with these tensors: all of it and nothing else."""
    encoder = Encoder(CLIPVisionConfig.from_pretrained(folder, attn_implementation="eager"))
    encoder.load_state_dict(tensors, assign=True)
    return encoder.eval()


def task(number: int, side: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw the images (N, 3, side, side) and the unit-norm head (classes, d) of one task, in float64."""
    rng = np.random.default_rng(1000 + number)
    head = rng.standard_normal((CLASSES, width))
    return rng.standard_normal((EXAMPLES, 3, side, side)), head / np.linalg.norm(head, axis=1, keepdims=True)
