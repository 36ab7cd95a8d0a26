"""Collect the Gram matrices of the inputs of one expert's linear layers (RegMean, Jin et al., arXiv 2212.09849)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.func import functional_call

from nan_merge.calibration.records import batches
from nan_merge.core.errors import UserError
from nan_merge.core.progress import Progress, no_progress
from nan_merge.models.training import Task

Observer = Callable[[str, Tensor], object]  # called with the name of a matrix and its inputs (..., d_in)
CONV1D = "Conv1D"  # linear layer of GPT-2, whose weight is stored as (in, out)


def gram(
    encoder: nn.Module,
    task: Task,
    progress: Progress = no_progress,
    *,
    examples: Annotated[int, Ge(1), "number of examples of the training split"] = 256,
    batch_size: Annotated[int, Ge(1), "examples a batch"] = 32,
) -> dict[str, np.ndarray]:
    """Return G = X^T X / n of every matrix that multiplies tokens: tensor name -> (d_in, d_in) float32.

    X (n, d_in) are all tokens of the first examples, without padding; G is summed in float64. Covered are linear
    layers, Conv1D of GPT-2 and the projections inside fused attention. A matrix that never runs, or whose `requires_grad` is
    off, is left out.
    """
    torch.set_num_threads(1)
    wanted = {name for name, parameter in encoder.named_parameters(remove_duplicate=False) if parameter.requires_grad}
    return grams(encoder, task.inputs, batches(min(examples, len(task.inputs)), batch_size), wanted, progress=progress)


def grams(
    encoder: nn.Module,
    inputs: np.ndarray,
    parts: list[np.ndarray],
    wanted: set[str],
    weights: Mapping[str, Tensor] | None = None,
    progress: Progress = no_progress,
) -> dict[str, np.ndarray]:
    """Return the Gram matrices of the `wanted` matrices over batches; `weights` replace those of the encoder by name."""
    totals: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    find, filled = getattr(encoder, "filled", None), None

    def add(name: str, x: Tensor) -> None:
        if name in wanted:
            tokens = x.reshape(-1, x.shape[-1])
            if filled is not None and x.shape[:-1] == filled.shape:  # texts, some of their tokens padding
                tokens = x[torch.from_numpy(filled).to(x.device)]
            tokens = tokens.double()
            totals[name] = totals.get(name, 0) + tokens.T @ tokens
            counts[name] = counts.get(name, 0) + len(tokens)

    for rows in parts:
        batch = np.asarray(inputs[rows])
        filled = find(batch) if find else None
        run(encoder, batch, weights or {}, add)
        progress(len(rows))
    return {name: (total / max(1, counts[name])).float().cpu().numpy() for name, total in totals.items()}


def run(encoder: nn.Module, inputs: np.ndarray, weights: Mapping[str, Tensor], observe: Observer) -> None:
    """Run an encoder on a batch and call `observe` with the name and the input of every matrix, in order.

    Gradients are enabled, since without them an encoder may bypass its modules, but no parameter requires one.
    """
    learning = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        with torch.enable_grad(), _hooked(encoder, observe):
            functional_call(encoder, dict(weights), (inputs,))
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


@contextmanager
def _hooked(encoder: nn.Module, observe: Observer) -> Iterator[None]:
    handles = []
    for name, module in encoder.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            handles.append(module.register_forward_pre_hook(_Attention(f"{name}.".lstrip("."), observe), with_kwargs=True))
        elif isinstance(module, nn.Linear) or type(module).__name__ == CONV1D:
            handles.append(module.register_forward_pre_hook(_Layer(f"{name}.weight".lstrip("."), observe), with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Layer:
    """Observe the input of a layer with one matrix."""

    def __init__(self, name: str, observe: Observer) -> None:
        self.name, self.observe = name, observe

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.observe(self.name, args[0] if args else next(iter(kwargs.values())))


class _Attention:
    """Observe the inputs of both projections of torch's attention, which calls no layer for them.

    The input of the output projection is the output of the attention with that projection set to the identity.
    """

    def __init__(self, prefix: str, observe: Observer) -> None:
        self.prefix, self.observe, self.inside = prefix, observe, False

    def __call__(self, module: nn.MultiheadAttention, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.inside:
            return
        arguments = inspect.signature(module.forward).bind(*args, **kwargs).arguments
        if module.in_proj_weight is None or not arguments["query"] is arguments["key"] is arguments["value"]:
            raise UserError(f"attention '{self.prefix}': its projections have several inputs; expected self-attention")
        query = arguments["query"]
        identity = {"out_proj.weight": torch.eye(module.embed_dim, dtype=query.dtype, device=query.device)}
        if module.out_proj.bias is not None:
            identity["out_proj.bias"] = torch.zeros_like(module.out_proj.bias)
        self.inside = True
        try:
            mixed = functional_call(module, identity, args, kwargs)[0]
        finally:
            self.inside = False
        for name, x in (("in_proj_weight", query), ("out_proj.weight", mixed)):
            self.observe(self.prefix + name, x if module.batch_first or x.ndim == 2 else x.transpose(0, 1))
