"""Fine-tune an encoder of texts or images against a fixed head."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nan_merge.core.errors import UserError
from nan_merge.models.heads import Head

WARM_UP = 0.1  # share of the steps
MAX_GRADIENT_NORM = 1.0
KEYS = ("learning_rate", "steps", "batch_size", "logit_scale", "weight_decay", "frozen")


@dataclass(frozen=True)
class Task:
    """A task: inputs (N, ...), labels (N,) int64, frozen head (C, d) or of several layers, scale of the logits."""

    inputs: np.ndarray
    labels: np.ndarray
    head: np.ndarray | Head
    logit_scale: float

    @functools.cached_property
    def _scaled(self) -> Head:
        return (self.head if isinstance(self.head, Head) else Head.of_rows(self.head)).scaled(self.logit_scale)

    def logits(self, encoder: Callable[[np.ndarray], Tensor], rows: np.ndarray) -> Tensor:
        """Return `logit_scale * head(z)` of some of the examples, on the device of the encoder: (B, C)."""
        return self._scaled(encoder(np.asarray(self.inputs[rows])))

    def loss(self, encoder: Callable[[np.ndarray], Tensor], rows: np.ndarray) -> Tensor:
        """Return the mean cross-entropy of some of the examples."""
        logits = self.logits(encoder, rows)
        return F.cross_entropy(logits, torch.from_numpy(self.labels[rows]).to(logits.device))


def finetune(
    encoder: torch.nn.Module, inputs: np.ndarray, labels: np.ndarray, head: np.ndarray | Head,
    settings: Mapping[str, Any], seed: int, progress: Callable[[int, float], None] | None = None,
) -> list[float]:  # fmt: skip
    """Train the encoder in place on cross-entropy of `logit_scale * z @ head.T`; return every step's loss.

    AdamW (Loshchilov & Hutter 2019), linear warm-up, cosine decay to zero, clipped gradients. `frozen` lists regular
    expressions of names of tensors that are not trained; the head is never trained. `progress(step, loss)` is called after
    each step. The same seed gives the same bytes on any number of cores; a GPU rounds differently.
    """
    check(settings, KEYS, "finetune")
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    task, order = Task(inputs, labels, head, settings["logit_scale"]), index_batches(len(labels), settings["batch_size"], seed)
    return optimise(trained(encoder, settings["frozen"]), lambda: task.loss(encoder, next(order)), settings, progress)


def finetune_joint(
    encoder: torch.nn.Module, tasks: Sequence[Task], settings: Mapping[str, Any], seed: int,
    progress: Callable[[int, float], None] | None = None,
) -> list[float]:  # fmt: skip
    """Train one encoder in place on all tasks (traditional multi-task learning); return every step's loss.

    A step uses a batch of one task and its head; every round of T steps visits each task once, in random order.
    ASSUME: papers train for a fixed number of steps (FusionBench: 4000); here every task gets `steps` steps, like its
    expert, so the schedule has T times as many. All other settings are as in `finetune`.
    """
    check(settings, KEYS, "finetune")
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    orders = [index_batches(len(task.labels), settings["batch_size"], [seed, t]) for t, task in enumerate(tasks)]
    turns = index_batches(len(tasks), 1, seed)

    def loss() -> Tensor:
        turn = int(next(turns)[0])
        return tasks[turn].loss(encoder, next(orders[turn]))

    longer = {**settings, "steps": len(tasks) * settings["steps"]}
    return optimise(trained(encoder, settings["frozen"]), loss, longer, progress)


def optimise(
    parameters: list[torch.nn.Parameter], loss: Callable[[], Tensor], settings: Mapping[str, Any],
    progress: Callable[[int, float], None] | None = None,
) -> list[float]:  # fmt: skip
    """Take `settings["steps"]` steps of AdamW on `loss()`, which draws its own batch; return every step's loss."""
    rate = settings["learning_rate"]
    optimiser = torch.optim.AdamW(parameters, rate, weight_decay=settings["weight_decay"], fused=True)
    losses = []
    for step in range(settings["steps"]):
        for group in optimiser.param_groups:
            group["lr"] = rate * schedule(step, settings["steps"])
        now = loss()
        optimiser.zero_grad()
        now.backward()
        torch.nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
        optimiser.step()
        losses.append(now.item())
        if progress:
            progress(step, losses[-1])
    return losses


def check(settings: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    """Raise UserError for missing or unknown keys of settings; `where` is their key in the suite."""
    missing, unknown = set(keys) - set(settings), set(settings) - set(keys)
    if missing or unknown:
        raise UserError(
            f"`{where}:` of the suite: missing {sorted(missing)}, unknown {sorted(unknown)}; expected exactly {', '.join(keys)}"
        )


def trained(encoder: torch.nn.Module, frozen: list[str]) -> list[torch.nn.Parameter]:
    """Freeze parameters by name patterns and return the others; raise UserError for a pattern without a match."""
    names = [name for name, _ in encoder.named_parameters()]
    for pattern in frozen:
        if not any(re.search(pattern, name) for name in names):
            raise UserError(f"`finetune: frozen:` pattern {pattern!r} fits no tensor; they are named like {names[0]!r}")
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(not any(re.search(pattern, name) for pattern in frozen))
    return [parameter for parameter in encoder.parameters() if parameter.requires_grad]


def index_batches(size: int, batch: int, seed: int | Sequence[int]) -> Iterator[np.ndarray]:
    """Yield index batches endlessly from concatenated permutations; a batch may span two of them."""
    random = np.random.default_rng(seed)
    indices = np.empty(0, dtype=np.int64)
    while True:
        while len(indices) < batch:
            indices = np.concatenate([indices, random.permutation(size)])
        yield indices[:batch]
        indices = indices[batch:]


def schedule(step: int, steps: int) -> float:
    """Return the factor on the learning rate: linear warm-up, bounded by a cosine from one to zero."""
    return min((step + 1) / (WARM_UP * steps), 0.5 * (1 + math.cos(math.pi * step / steps)), 1.0)
