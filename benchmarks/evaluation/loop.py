"""The batch loop against the forward pass alone: the same images, in one process, in turn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.harness import in_turn
from nan_merge.data.dataset import Dataset
from nan_merge.models.registry import find_family

Seconds = dict[str, float]


def measure(
    model: Path, data: Path, head: Path, size: int, precision: str, rounds: int, device: str = "cpu"
) -> list[dict[str, Any]]:
    """Return the seconds of every round, wall and processor.

    `network` is the model on floating-point pixels in memory, `encoder` the same on bytes in memory, `loop` is
    everything from the mapped file to predictions; all over the same number of batches of `size` images, on one thread.
    """
    from nan_merge.models.classification import Forward, embed
    from nan_merge.models.heads import Head, predict

    module, forward = find_family("clip"), Forward(device, precision)
    encoder, inputs, rows = module.load(model), Dataset(data).inputs("test"), Head.read(head)
    forward.place(encoder)
    batches = module.batches(inputs[: len(inputs) // size * size], size)
    first = np.asarray(inputs[batches[0]])
    work: dict[str, Callable[[], Any]] = {
        "network": lambda: ready(encoder, first, len(batches), forward),
        "encoder": lambda: repeated(encoder, first, len(batches), forward),
        "loop": lambda: predict(embed(encoder, inputs, batches, forward), rows),
    }
    images = len(batches) * size
    return [{"precision": precision, "images": images, **each} for each in in_turn(work, rounds)]


def repeated(encoder: Any, batch: np.ndarray, count: int, forward: Any) -> None:
    """Run an encoder on one batch again and again."""
    import torch

    with torch.inference_mode(), forward.place(encoder):
        for _ in range(count):
            encoder(batch)
    if forward.cuda:  # which has only been told what to do
        torch.cuda.synchronize(forward.device)


def ready(encoder: Any, batch: np.ndarray, count: int, forward: Any) -> None:
    """Run the network of a CLIP encoder on one batch of pixels that were normalised once."""
    from nan_merge.models import zero_shot

    pixels = zero_shot.normalise_pixels(batch, encoder.side, next(encoder.parameters()))
    with mock.patch.object(zero_shot, "normalise_pixels", lambda images, *_: pixels[: len(images)]):
        repeated(encoder, batch, count, forward)
