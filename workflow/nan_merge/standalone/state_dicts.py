"""Merge state dicts in memory: NumPy arrays or torch tensors by name, without files. torch is never imported here."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from array_api_compat import array_namespace, is_torch_array

from nan_merge.catalogue.files import known_names
from nan_merge.checkpoints.checkpoint import SINGLE, Checkpoint
from nan_merge.checkpoints.pickles import ArrayTensor
from nan_merge.checkpoints.safetensors_file import DTYPES, NAMES
from nan_merge.core.errors import UserError, advice_for_arguments
from nan_merge.core.progress import Passes
from nan_merge.engine.devices import device
from nan_merge.engine.merge import stream
from nan_merge.layouts.ties import twins
from nan_merge.layouts.unify import check_distinct
from nan_merge.standalone.merge_models import Settings

BY_NAME = {dtype.name: dtype for dtype in NAMES}  # NumPy and torch give the types the same names


class StateDict(Checkpoint):
    """A checkpoint in memory; its tensors share the memory of the arrays, but for those on a device."""

    def __init__(self, who: str, tensors: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        """Take arrays by name; `who` names them in messages, `config` is what config.json of the model holds."""
        self.folder, self.config = Path(who), config
        self.entries = {}
        for name, tensor in tensors.items():
            values = to_numpy(tensor)
            if values is None:
                known = ", ".join(BY_NAME)
                found = f"{type(tensor).__name__} of type {getattr(tensor, 'dtype', 'unknown')}"
                raise UserError(f"{who}: '{name}' is a {found}; expected a NumPy array or a torch tensor of {known}")
            self.entries[name] = ArrayTensor(NAMES[values.dtype], values.shape, values)
        self.shards = {SINGLE: list(self.entries)}


@advice_for_arguments()
def merge_state_dicts(
    base: Mapping[str, Any],
    experts: Mapping[str, Mapping[str, Any]],
    method: str,
    *,
    config: Mapping[str, Any] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Return the merge of state dicts: arrays with the names, order, kind, device and types of the base.

    `experts` are state dicts by name; values are NumPy arrays or torch tensors (*shape). The numbers are those that `merge`
    writes for the same tensors in files. Tensors that are not merged (integers, buffers, excluded ones) are copies of the
    base's. `config` is the content of the model's config.json (`model.config.to_dict()`): it says which matrices are stored
    as (in, out), as in GPT-2, and whether the head is tied. `settings` are `set`, `exclude`, `vocabulary`,
    `missing`, `dtype`, `device`, `compute`, `blas_threads`, `threads`, `seed` and `quiet` (no warnings) of `merge`.

    Raises UserError for names or shapes that differ from the base's, for a method that needs more than models, and where a
    number of a model or of the merge is not finite.
    """
    known_names("merge_state_dicts", settings, [each.name for each in fields(Settings)])
    chosen = Settings(method=method, **settings)
    origin = StateDict("the base", base, config or {})
    opened = {name: StateDict(f"the expert '{name}'", tensors, config or {}) for name, tensors in experts.items()}
    chosen.check_experts([*opened])
    models = chosen.unified(origin, opened)
    check_distinct(models)
    for note in () if chosen.quiet else models.notes:
        warnings.warn(note, stacklevel=3)  # above the decorator
    with Passes(0, quiet=True) as progress:
        cuts = chosen.thresholds(models, progress)
        request = chosen.request(models, chosen.table(models, cuts, progress), cuts)
    entries = models.base.entries
    merged = {name: np.empty(entry.shape, DTYPES[request.types[name]]) for name, entry in entries.items()}

    def write(name: str, first: int, stored: np.ndarray) -> None:
        merged[name].reshape(-1)[first : first + len(stored)] = stored

    stream(request, write, threads=chosen.threads, device=device(chosen.device))
    tied = twins(origin)
    new = [name for name in merged if name not in base]  # a head that an expert does not tie
    results = {name: like(base.get(name, next(iter(base.values()))), values) for name, values in merged.items()}
    return {name: results[name if name in results else tied[name]] for name in [*base, *new]}


def to_numpy(tensor: Any) -> np.ndarray | None:
    """Return an array or a torch tensor (*shape) as a NumPy array, without a copy where it lies in memory; None for others."""
    if isinstance(tensor, np.ndarray):
        return tensor if tensor.dtype in NAMES else None
    dtype = BY_NAME.get(str(tensor.dtype).removeprefix("torch.")) if is_torch_array(tensor) else None
    if dtype is None:
        return None
    bits = tensor.detach().reshape(-1).view(array_namespace(tensor).uint8)  # NumPy knows no bfloat16 of torch
    return bits.cpu().numpy().view(dtype).reshape(tuple(tensor.shape))


def like(tensor: Any, values: np.ndarray) -> Any:
    """Return values (*shape) as the kind of array that `tensor` is, on its device; the type is that of the values."""
    if isinstance(tensor, np.ndarray):
        return values
    xp = array_namespace(tensor)
    bits = xp.from_numpy(values.reshape(-1).view(np.uint8)).view(getattr(xp, values.dtype.name))
    return bits.reshape(values.shape).to(tensor.device)
