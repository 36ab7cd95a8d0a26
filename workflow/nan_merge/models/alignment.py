"""Align an image encoder with a frozen text tower, in place of CLIP's pre-training.

Ridge regression initialises the projection, then a few contrastive steps (Radford et al. 2021) train all parameters. The
images are the tasks' `alignment` splits, which no expert is trained on, and captioned pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nan_merge.models.training import check, optimise

KEYS = ("learning_rate", "steps", "batch_size", "logit_scale", "weight_decay", "ridge")
SAME_TEXT = 0.999  # cosine above which two texts count as equal


@dataclass(frozen=True)
class Pairs:
    """Images (N, side, side, 3) uint8 and the unit-norm embeddings of their texts (N, d) float32."""

    images: np.ndarray
    texts: np.ndarray


def align_text_image(
    encoder: torch.nn.Module, tasks: Sequence[Pairs], captions: Pairs, settings: Mapping[str, Any], seed: int,
    progress: Callable[[int, float], None] | None = None,
) -> list[float]:  # fmt: skip
    """Train the encoder in place and return the loss of every step.

    Half of a batch is drawn from the tasks with equal probability, half from the captions. Text embeddings are centred on
    the mean text of the tasks. The same seed gives the same bytes on any number of cores.
    """
    check(settings, KEYS, "alignment")
    torch.set_num_threads(1)
    images = np.concatenate([task.images for task in tasks])
    raw = torch.from_numpy(np.concatenate([task.texts for task in tasks]))
    texts = F.normalize(raw - raw.mean(0), dim=1)
    others = F.normalize(torch.from_numpy(captions.texts) - raw.mean(0), dim=1)
    _project(encoder, images, raw, settings["ridge"])

    random = np.random.default_rng(seed)
    sizes = [len(task.images) for task in tasks]

    def loss() -> Tensor:
        rows, more = _batch(random, sizes, len(captions.images), settings["batch_size"])
        embeddings = encoder(np.concatenate([images[rows], captions.images[more]]))
        return contrastive_loss(embeddings, torch.cat([texts[rows], others[more]]), settings["logit_scale"])

    return optimise(list(encoder.parameters()), loss, settings, progress)


def contrastive_loss(images: Tensor, texts: Tensor, scale: float) -> Tensor:
    """Return the symmetric cross-entropy of `scale * images @ texts.T`; all pairs with equal texts match."""
    logits = scale * images @ texts.T
    same = (texts @ texts.T > SAME_TEXT).float()
    share = same / same.sum(1, keepdim=True)
    of_images, of_texts = ((share * side.log_softmax(1)).sum(1).mean() for side in (logits, logits.T))
    return -0.5 * (of_images + of_texts)


@torch.no_grad()
def _project(encoder: torch.nn.Module, images: np.ndarray, texts: Tensor, ridge: float) -> None:
    """Set the projection by ridge regression from features to centred texts; `ridge` is relative to the mean variance."""
    parts = np.array_split(np.arange(len(images)), max(1, len(images) // 100))
    features_of = cast(Callable[[np.ndarray], Tensor], encoder.features)
    features = torch.cat([features_of(images[part]) for part in parts]).double()
    mean = features.mean(0)
    a, b = features - mean, (texts - texts.mean(0)).double()
    penalty = ridge * a.square().sum() / a.shape[1]
    weight = torch.linalg.solve(a.T @ a + penalty * torch.eye(a.shape[1], dtype=a.dtype), a.T @ b)
    projection = cast(torch.nn.Linear, encoder.projection)
    projection.weight.copy_(weight.T)
    projection.bias.copy_(-(mean @ weight))


def _batch(random: np.random.Generator, sizes: Sequence[int], captions: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw rows of the concatenated tasks (first a task, then a row) and rows of the captions without repetition."""
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    chosen = random.integers(0, len(sizes), size // 2)
    rows = starts[chosen] + random.integers(0, np.asarray(sizes)[chosen])
    return rows, random.choice(captions, size - size // 2, replace=False)
