"""Collect the diagonal Fisher information of one expert (Fisher merging, Matena & Raffel, arXiv 2111.09832)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor, nn

from nan_merge.calibration.records import batches
from nan_merge.core.progress import Progress, no_progress
from nan_merge.models.training import Task

Scalars = Callable[[nn.Module, Task, np.ndarray], Iterator[Tensor]]


def batch_sqrt(encoder: nn.Module, task: Task, rows: np.ndarray) -> Iterator[Tensor]:
    """Yield sum_x sum_y sqrt(p(y|x)) log p(y|x) of a batch, the roots detached: the published code (MergeLM, FusionBench).

    The square of its gradient has cross terms between classes and examples, so it is not the Fisher information; published
    tables were made with it.
    """
    logs = task.logits(encoder, rows).log_softmax(1)
    yield (logs.detach().exp().sqrt() * logs).sum()


def exact(encoder: nn.Module, task: Task, rows: np.ndarray) -> Iterator[Tensor]:
    """Yield sqrt(p(y|x)) log p(y|x) of every example and class, the roots detached: E_x sum_y p (grad log p)^2, eq. 2."""
    for row in rows:
        logs = task.logits(encoder, np.array([row])).log_softmax(1)[0]
        yield from logs.detach().exp().sqrt() * logs


def empirical(encoder: nn.Module, task: Task, rows: np.ndarray) -> Iterator[Tensor]:
    """Yield log p(label|x) of every example."""
    for row in rows:
        yield -task.loss(encoder, np.array([row]))


ESTIMATORS: dict[str, Scalars] = {f.__name__: f for f in (batch_sqrt, exact, empirical)}


def fisher(
    encoder: nn.Module,
    task: Task,
    progress: Progress = no_progress,
    *,
    estimator: Annotated[
        Literal["batch_sqrt", "exact", "empirical"], "scalar whose squared gradients are averaged"
    ] = "batch_sqrt",
    examples: Annotated[int, Ge(1), "number of examples of the training split"] = 256,
    batch_size: Annotated[int, Ge(1), "examples a batch"] = 32,
) -> dict[str, np.ndarray]:
    """Return the sum of squared gradients over the first examples, divided by their number: float32, shaped as the parameters.

    The squares of a batch are summed in float32, the batches in float64. A parameter without a gradient (it has no effect
    on the output, or `requires_grad` is off) gets zeros. Floor and normalisation of the published code belong to the
    merge. `progress` is called with the number of examples of every batch.
    """
    torch.set_num_threads(1)
    count = min(examples, len(task.labels))
    learning = {name: parameter for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    totals = {name: torch.zeros_like(parameter, dtype=torch.float64) for name, parameter in learning.items()}
    for rows in batches(count, batch_size):
        sums = {name: torch.zeros_like(parameter) for name, parameter in learning.items()}
        for scalar in ESTIMATORS[estimator](encoder, task, rows):
            gradients = torch.autograd.grad(scalar, list(learning.values()), retain_graph=True, allow_unused=True)
            for total, gradient in zip(sums.values(), gradients, strict=True):
                if gradient is not None:
                    total.addcmul_(gradient, gradient)
        for name, total in totals.items():
            total += sums[name]
        progress(len(rows))
    return {
        name: (totals[name] / count).float().contiguous().cpu().numpy()
        if name in totals
        else np.zeros(parameter.shape, np.float32)
        for name, parameter in encoder.named_parameters()
    }
