"""Frozen heads: from the embeddings of an encoder to the logits of a task.

A head file holds `head` (C, d), a row for each class, perhaps with `bias` (C,), or the head of RoBERTa's classifiers: `dense`
(d, d), tanh, `out_proj` (C, d), both with biases.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nan_merge.checkpoints.checkpoint import Checkpoint
from nan_merge.core.errors import UserError
from nan_merge.data.dataset import Dataset

ROWS, BIAS = "head", "bias"
LAYERS = ("dense", "out_proj")  # of the head of RobertaForSequenceClassification, which RoBERTa's authors use
Layer = tuple[Tensor, Tensor | None]  # weight (out, in), bias (out,)


@dataclass(frozen=True)
class Head:
    """Linear layers with tanh between them; the last one has an output for each class."""

    layers: tuple[Layer, ...]

    @classmethod
    def of_rows(cls, rows: np.ndarray, bias: np.ndarray | None = None) -> Head:
        """Return the head of one row (d,) for each class, with a `bias` for each if given."""
        return cls(((torch.from_numpy(np.asarray(rows)), None if bias is None else torch.from_numpy(np.asarray(bias))),))

    @classmethod
    def read(cls, file: Path) -> Head:
        """Read a head file; raise UserError for other tensors than those of a head."""
        stored = Checkpoint(file)
        if ROWS in stored.entries:
            return cls.of_rows(stored.read(ROWS), stored.read(BIAS) if BIAS in stored.entries else None)
        wanted = [f"{layer}.{kind}" for layer in LAYERS for kind in ("weight", "bias")]
        if missing := [name for name in wanted if name not in stored.entries]:
            raise UserError(f"{file}: no tensor '{missing[0]}'; expected '{ROWS}', or {', '.join(wanted)}; remove the head")
        weights = [torch.from_numpy(stored.read(name).astype(np.float32, copy=False)) for name in wanted]
        return cls(tuple(zip(weights[::2], weights[1::2], strict=True)))

    @property
    def outputs(self) -> int:
        """Number of logits; one for a regression."""
        return len(self.layers[-1][0])

    @property
    def width(self) -> int:
        """Width of the embeddings."""
        return self.layers[0][0].shape[1]

    def scaled(self, factor: float) -> Head:
        """Return the head with all logits times `factor`."""
        weight, bias = self.layers[-1]
        return Head((*self.layers[:-1], (factor * weight, None if bias is None else factor * bias)))

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Return the logits (N, C) of embeddings (N, d), on their device; UserError for embeddings of another width."""
        if (found := embeddings.shape[1]) != self.width:
            raise UserError(
                f"the encoder gives embeddings of {found} numbers, the head takes {self.width}; expected one width: choose a"
                f" `text_tower` of {found}, or set `network: projection: {self.width}` where the suite has one"
            )
        for number, (weight, bias) in enumerate(self.layers):
            embeddings = torch.tanh(embeddings) if number else embeddings
            place = embeddings.device
            embeddings = F.linear(embeddings, weight.to(place), None if bias is None else bias.to(place))
        return embeddings


def fitting(file: Path, data: Dataset, embeddings: np.ndarray, checkpoint: Path, precision: str) -> Head:
    """Return the head of a data set for the embeddings (N, d) that a checkpoint gives in a precision.

    Raises UserError where it does not fit the classes or the width, or where embeddings are not finite.
    """
    head, classes = Head.read(file), len(data.record["classes"])
    if (shape := [head.outputs, head.width]) != (expected := [classes, embeddings.shape[1]]):
        raise UserError(
            f"{file}: the head is {shape}, expected {expected}: the classes of {data.folder}, and the width of"
            f" the embeddings of {checkpoint}; remove the head and let it be made again, or correct the suite"
        )
    if strange := int((~np.isfinite(embeddings)).any(1).sum()):
        reason = "it holds NaN or infinities" if precision == "float32" else f"or try another --precision than {precision}"
        raise UserError(f"{checkpoint}: {strange} of {len(embeddings)} embeddings of {data.folder} are NaN or infinite; {reason}")
    return head


def predict(embeddings: np.ndarray, head: Head) -> np.ndarray:
    """Return the answers of a head to embeddings (N, d), as `answers` gives them."""
    return answers(head(torch.from_numpy(embeddings)))


def answers(logits: Tensor) -> np.ndarray:
    """Return the class with the largest of the logits (N, C) for each row, (N,) int64; of one output that output, float32."""
    return (logits[:, 0] if logits.shape[1] == 1 else logits.argmax(dim=1)).numpy()
