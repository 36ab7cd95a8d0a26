"""Learn the coefficients of a method by minimising entropy on unlabelled inputs (AdaMerging, Yang et al., arXiv 2310.02575)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.func import functional_call

from nan_merge.engine.request import Contexts
from nan_merge.methods.coefficients import CoefficientTable, row_of
from nan_merge.methods.context import TensorContext
from nan_merge.methods.recipe import Recipe
from nan_merge.models.training import Task, index_batches


@dataclass(frozen=True)
class Learned:
    """Coefficients with their curve: before every step the mean entropy over tasks, and the mean coefficient by expert."""

    table: CoefficientTable
    losses: list[float]
    coefficients: dict[str, list[float]]

    def record(self) -> dict[str, Any]:
        """Return the table and the curve as a JSON record."""
        return {**self.table.record(), "curve": {"loss": self.losses, "coefficients": self.coefficients}}


class DifferentiableMerge:
    """A merge as a function of its coefficients, through which gradients flow.

    `preprocess` runs once, in float64 as in a merge; `combine` and `postprocess` run on torch tensors of `dtype` on `device`,
    that of the encoder.
    """

    def __init__(
        self, recipe: Recipe, contexts: Contexts, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> None:
        """Read the task vectors of all merged tensors and preprocess them."""
        self.recipe, self.models, self.device = recipe, contexts.models, device
        self.base: dict[str, Tensor] = {}
        self.taus: dict[str, Tensor] = {}
        self.contexts: dict[str, TensorContext] = {}
        for name in self.models.merged:
            shape = self.models.base.shape(name)
            base = self.models.base.read(name).astype(np.float64).reshape((shape or (1,)) if recipe.whole else -1)
            context = contexts.of_tensor(name, base=base)
            taus = [
                recipe.preprocess(
                    model.read(name).astype(np.float64).reshape(base.shape) - base, contexts.of_expert(context, expert)
                )
                for expert, model in self.models.experts.items()
            ]
            self.base[name], self.taus[name] = (torch.from_numpy(values).to(device, dtype) for values in (base, np.stack(taus)))
            self.contexts[name] = replace(context, base=self.base[name])

    def tensors(self, alpha: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the merged tensors by name, for the coefficients (T,) of each."""
        tensors = {}
        for name, base in self.base.items():
            merged = self.recipe.merge(self.taus[name], list(alpha[name].unbind()), self.contexts[name])
            tensors[name] = (base + merged).reshape(self.models.base.shape(name))
        return tensors


def entropy(encoder: nn.Module, tensors: Mapping[str, Tensor], tasks: Sequence[Task], rows: Sequence[np.ndarray]) -> Tensor:
    """Return the sum over tasks of the mean entropy of the predictions on a batch of each, in nats."""

    def merged(inputs: np.ndarray) -> Tensor:
        return functional_call(encoder, dict(tensors), (inputs,))

    logs = [task.logits(merged, batch).log_softmax(1) for task, batch in zip(tasks, rows, strict=True)]
    return torch.stack([-(each.exp() * each).sum(1).mean() for each in logs]).sum()


def learn(
    encoder: nn.Module,
    merge: DifferentiableMerge,
    tasks: Sequence[Task],
    seed: int,
    progress: Callable[[int, float], None] | None = None,
    *,
    scope: Annotated[Literal["model", "layer", "tensor"], "range of one row of coefficients"] = "tensor",
    steps: Annotated[int, Ge(0), "steps of Adam"] = 500,
    batch_size: Annotated[int, Ge(1), "examples of every task a step"] = 32,
    learning_rate: Annotated[float, Gt(0), "of Adam"] = 1e-3,
    init: Annotated[float, "initial value of every coefficient"] = 0.3,
    clamp: Annotated[bool, "clamp coefficients to [0, 1] where they are used"] = True,
) -> Learned:
    """Minimise the sum over tasks of E_x H(softmax f(x)) over the coefficients of all experts (eqs. 3, 6).

    `scope: model` is task-wise AdaMerging, `tensor` layer-wise; AdaMerging++ learns on TIES-processed task vectors. The
    encoder has the base's weights and is on the device of `merge`; encoder, task vectors and heads are not changed. The
    same seed gives the same numbers on any number of cores of one kind of processor.

    DIFFERS: a step uses one batch of 32 for each task, the official code the sum of two of 16. `clamp` is the official
    code's; FusionBench has none (and runs 1000 steps of 16). The curve holds the mean over tasks.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    experts = tuple(merge.models.experts)
    rows = {row: i for i, row in enumerate(sorted({row_of(name, scope) for name in merge.models.merged}))}
    leaf = torch.full((len(rows), len(experts)), init, dtype=torch.float64, device=merge.device, requires_grad=True)
    optimiser = torch.optim.Adam([leaf], learning_rate)
    orders = [index_batches(len(task.inputs), batch_size, [seed, t]) for t, task in enumerate(tasks)]
    losses, means = [], []
    for step in range(steps):
        alpha = leaf.clamp(0, 1) if clamp else leaf
        tensors = merge.tensors({name: alpha[rows[row_of(name, scope)]] for name in merge.models.merged})
        loss = entropy(encoder, tensors, tasks, [next(order) for order in orders])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item() / len(tasks))
        means.append(alpha.detach().mean(0).tolist())
        if progress:
            progress(step, losses[-1])
    learned = (leaf.clamp(0, 1) if clamp else leaf).detach().tolist()
    table = CoefficientTable(experts, scope, {row: learned[i] for row, i in rows.items()})
    return Learned(table, losses, {expert: [at[t] for at in means] for t, expert in enumerate(experts)})
