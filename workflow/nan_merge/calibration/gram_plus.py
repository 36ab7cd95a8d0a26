"""Collect Gram matrices on the outputs of already merged layers (RegMean++, Nguyen et al., arXiv 2508.03121)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from nan_merge.calibration.gram import grams, run
from nan_merge.calibration.records import batches
from nan_merge.checkpoints.checkpoint import Checkpoint
from nan_merge.core.blocks import LAYER_RE
from nan_merge.core.progress import Progress, no_progress
from nan_merge.engine.request import Contexts
from nan_merge.layouts.unify import Models
from nan_merge.methods import covariance


def gram_plus(
    encoder: nn.Module,
    models: Models,
    inputs: Mapping[str, np.ndarray],
    progress: Progress = no_progress,
    *,
    examples: Annotated[int, Ge(1), "number of examples of each training split"] = 256,
    batch_size: Annotated[int, Ge(1), "examples a batch"] = 32,
    off_diagonal: Annotated[float, Ge(0), Le(1), "factor of off-diagonal entries when a layer is merged"] = 0.95,
) -> dict[str, dict[str, np.ndarray]]:
    """Return by expert the Gram matrix of every merged matrix that multiplies tokens: (d_in, d_in) float32.

    Layer by layer, the examples of an expert's own task pass through the merged model up to the layer and through the
    expert's weights in it. Then the layer is merged: matrices by RegMean with `off_diagonal`, other tensors by the mean.
    `encoder` has the base's weights; `inputs` are those of the training split of each expert's task.

    ASSUME: experts have equal weights here; the coefficients of a method enter its own merge.
    """
    torch.set_num_threads(1)
    parts = {name: batches(min(examples, len(inputs[name])), batch_size) for name in models.experts}
    layers = _layers(encoder, next(iter(inputs.values())), models.merged)
    later = {name for members in layers for name in members}
    contexts = Contexts(models)
    like = dict(encoder.named_parameters())
    merged = {name: _merged(contexts, name, like[name]) for name in models.merged if name not in later}
    by_expert: dict[str, dict[str, np.ndarray]] = {name: {} for name in models.experts}
    for members in layers:
        for expert, model in models.experts.items():
            own = {name: _read(model, name, like[name].device).to(like[name].dtype) for name in members}
            by_expert[expert] |= grams(encoder, inputs[expert], parts[expert], set(members), {**merged, **own}, progress)
        for name in members:
            collected = [by_expert[expert][name] for expert in models.experts if name in by_expert[expert]]
            merged[name] = _merged(contexts, name, like[name], collected, off_diagonal)
    return by_expert


def _layers(encoder: nn.Module, inputs: np.ndarray, names: Sequence[str]) -> list[list[str]]:
    """Return the tensors of every layer with a matrix, in the order of execution.

    A linear layer outside the blocks of the network is its own layer.
    """
    executed: list[str] = []
    run(encoder, np.asarray(inputs[:1]), {}, lambda name, x: executed.append(name))
    prefixes = dict.fromkeys(block[0] if (block := LAYER_RE.match(name)) else f"{name.rpartition('.')[0]}." for name in executed)
    layers = [[name for name in names if name.startswith(prefix)] for prefix in prefixes]
    return [members for members in layers if members]


def _merged(contexts: Contexts, name: str, like: Tensor, grams: Sequence[np.ndarray] = (), off_diagonal: float = 1.0) -> Tensor:
    """Merge one tensor: by RegMean where every expert has a Gram matrix, otherwise by the mean.

    Computed in float64 on the device of `like`, returned in its type.
    """
    models = contexts.models
    base = _read(models.base, name, like.device)
    taus = torch.stack([_read(model, name, like.device) - base for model in models.experts.values()])
    statistics = [torch.from_numpy(matrix) for matrix in grams] if len(grams) == len(taus) else []
    context = contexts.of_tensor(name, base=base, calibration=statistics)
    return (base + covariance.gram(taus, [1.0] * len(taus), context, off_diagonal=off_diagonal)).to(like.dtype)


def _read(model: Checkpoint, name: str, device: torch.device) -> Tensor:
    return torch.from_numpy(model.read(name).astype(np.float64)).to(device)
