"""Classify embeddings by fixed heads: one unit row a class, top-1 by cosine. Works for every family."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F

Encoder = Callable[[np.ndarray], torch.Tensor]


@torch.inference_mode()
def embed(encoder: Encoder, inputs: np.ndarray, batches: Sequence[np.ndarray]) -> np.ndarray:
    """Return the embeddings of all inputs in their order, (N, d) float32, batch by batch."""
    torch.set_num_threads(1)
    rows = np.concatenate(batches)
    found = torch.cat([encoder(np.asarray(inputs[batch])) for batch in batches]).numpy()
    embeddings = np.empty_like(found)
    embeddings[rows] = found
    return embeddings


def predict(embeddings: np.ndarray, head: np.ndarray) -> np.ndarray:
    """Return the class with the greatest logit, logits = z @ head.T, for each row: (N,) int64."""
    logits = torch.from_numpy(embeddings) @ torch.from_numpy(head).T
    return logits.argmax(dim=1).numpy()


def build_head(embeddings: np.ndarray) -> np.ndarray:
    """Turn embeddings of the class prompts (C, d) into a head: centred over the task's classes, unit rows.

    Centring takes away what all prompts of a task share, so the logits compare only what sets classes apart.
    """
    head = torch.from_numpy(embeddings)
    return F.normalize(head - head.mean(dim=0), dim=1).numpy()
