"""Fine-tune an encoder against a fixed head; it never knows whether it reads texts or images."""

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

WARM_UP = 0.1  # share of the steps
CLIP = 1.0  # norm of the gradient
KEYS = ("learning_rate", "steps", "batch_size", "logit_scale", "weight_decay", "frozen")


@dataclass(frozen=True)
class Task:
    """A task as an encoder meets it: inputs (N, ...), labels (N,) int64, the frozen head (C, d), the scale of its logits."""

    inputs: np.ndarray
    labels: np.ndarray
    head: np.ndarray
    logit_scale: float

    @functools.cached_property
    def _columns(self) -> Tensor:
        return self.logit_scale * torch.from_numpy(np.asarray(self.head)).T

    def logits(self, encoder: Callable[[np.ndarray], Tensor], rows: np.ndarray) -> Tensor:
        """Return `logit_scale * z @ head.T` of some of the examples, on the device of the encoder: (B, C)."""
        found = encoder(np.asarray(self.inputs[rows]))
        return found @ self._columns.to(found.device)

    def loss(self, encoder: Callable[[np.ndarray], Tensor], rows: np.ndarray) -> Tensor:
        """Return the mean cross-entropy of some of the examples."""
        logits = self.logits(encoder, rows)
        return F.cross_entropy(logits, torch.from_numpy(self.labels[rows]).to(logits.device))


def finetune(
    encoder: torch.nn.Module, inputs: np.ndarray, labels: np.ndarray, head: np.ndarray,
    settings: Mapping[str, Any], seed: int, progress: Callable[[int, float], None] | None = None,
) -> list[float]:  # fmt: skip
    """Train the encoder in place on cross-entropy of `logit_scale * z @ head.T`; return every step's loss.

    AdamW (Loshchilov & Hutter 2019), linear warm-up, cosine decay to zero, clipped gradients. `frozen` lists
    regular expressions of tensor names that stay as they are; the head is never trained. After each step
    `progress(step, loss)` is called. The same seed gives the same bytes on any number of cores; a GPU rounds otherwise.
    """
    check(settings, KEYS, "finetune")
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    task, order = Task(inputs, labels, head, settings["logit_scale"]), index_batches(len(labels), settings["batch_size"], seed)
    return optimise(_trained(encoder, settings["frozen"]), lambda: task.loss(encoder, next(order)), settings, progress)


def finetune_joint(
    encoder: torch.nn.Module, tasks: Sequence[Task], settings: Mapping[str, Any], seed: int,
    progress: Callable[[int, float], None] | None = None,
) -> list[float]:  # fmt: skip
    """Train one encoder in place on all tasks (traditional multi-task learning); return every step's loss.

    A step takes a batch of one task and its head; in every round of T steps each task has its turn, in a drawn order.
    ASSUME: papers train for a fixed number of steps (4000 of FusionBench); here every task gets `steps` of them, as its
    expert did, so the schedule runs over T times as many. All else is as in `finetune`.
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
    return optimise(_trained(encoder, settings["frozen"]), loss, longer, progress)


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
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimiser.step()
        losses.append(now.item())
        if progress:
            progress(step, losses[-1])
    return losses


def check(settings: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    """Refuse settings with a missing or unknown key; `where` is their key in the suite."""
    missing, unknown = set(keys) - set(settings), set(settings) - set(keys)
    if missing or unknown:
        raise UserError(
            f"`{where}:` of the suite: missing {sorted(missing)}, unknown {sorted(unknown)}; expected exactly {', '.join(keys)}"
        )


def _trained(encoder: torch.nn.Module, frozen: list[str]) -> list[torch.nn.Parameter]:
    """Set which parameters learn and return them; a pattern that fits no tensor is a mistake."""
    names = [name for name, _ in encoder.named_parameters()]
    for pattern in frozen:
        if not any(re.search(pattern, name) for name in names):
            raise UserError(f"`finetune: frozen:` pattern {pattern!r} fits no tensor; they are named like {names[0]!r}")
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(not any(re.search(pattern, name) for pattern in frozen))
    return [parameter for parameter in encoder.parameters() if parameter.requires_grad]


def index_batches(size: int, batch: int, seed: int | Sequence[int]) -> Iterator[np.ndarray]:
    """Yield index batches for ever: one permutation after another, cut without regard to where one ends."""
    draw = np.random.default_rng(seed)
    waiting = np.empty(0, dtype=np.int64)
    while True:
        while len(waiting) < batch:
            waiting = np.concatenate([waiting, draw.permutation(size)])
        yield waiting[:batch]
        waiting = waiting[batch:]


def schedule(step: int, steps: int) -> float:
    """Return the share of the learning rate: linear warm-up under a cosine from one to zero."""
    return min((step + 1) / (WARM_UP * steps), 0.5 * (1 + math.cos(math.pi * step / steps)), 1.0)
