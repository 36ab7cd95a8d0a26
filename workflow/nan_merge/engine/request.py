"""Everything that decides the bytes of a merge, and the contexts that its operators get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from nan_merge.checkpoints.checkpoint import Checkpoint
from nan_merge.checkpoints.safetensors_file import DTYPES, NAMES
from nan_merge.core.errors import UserError
from nan_merge.engine.reader import FLOAT64
from nan_merge.engine.spaces import Origin, aligned
from nan_merge.layouts.names import config, depths, transposed
from nan_merge.layouts.unify import Models
from nan_merge.layouts.updates import LowRank
from nan_merge.methods.coefficients import MODEL, CoefficientTable
from nan_merge.methods.context import TensorContext
from nan_merge.methods.recipe import Recipe
from nan_merge.methods.varying import block_counts

Thresholds = Mapping[str, Mapping[str, float]]  # expert -> row (`model`, or a tensor) -> magnitude at which `trim` cuts


@dataclass(frozen=True)
class Contexts:
    """The contexts of one merge: of a tensor with all experts, and of a tensor of one expert."""

    models: Models
    thresholds: Thresholds = field(default_factory=dict)  # of `measure.thresholds`, for a method that trims
    seed: int = 0  # of random draws
    task: str | None = None  # the expert whose task the merge is for; only for operators that make a model for each task

    @cached_property
    def _depths(self) -> dict[str, float]:
        return depths(self.models.merged)

    @cached_property
    def _blocks(self) -> dict[str, int]:
        return block_counts(self.models.base.names)

    @cached_property
    def _transposed(self) -> set[str]:
        entries = self.models.base.entries
        return {name for name in transposed(config(self.models.base), entries) if not isinstance(entries[name], Origin)}

    @cached_property
    def _task(self) -> int | None:
        return None if self.task is None else list(self.models.experts).index(self.task)

    def check(self, recipe: Recipe) -> None:
        """Raise the UserErrors of a recipe that names, shapes and hyper-parameters alone decide; no tensor is read."""
        inner = replace(self, models=aligned(self.models, recipe.space))
        for name in inner.models.merged:
            recipe.check(inner.models.base.entries[name].shape, list(self.models.experts), inner.of_tensor(name))
        recipe.check_cases(inner.models.merged, inner._blocks)

    def of_tensor(self, name: str, start: int = 0, base: Any = None, calibration: Sequence[Any] = ()) -> TensorContext:
        """Return the context of a tensor of all experts, or of a piece of it that begins at the flat index `start`."""
        return TensorContext(
            name, start, seed=self.seed, base=base, calibration=calibration, blocks=self._blocks,
            depth=self._depths.get(name), transposed=name in self._transposed, task=self._task,
        )  # fmt: skip

    def of_expert(self, context: TensorContext, expert: str) -> TensorContext:
        """Return the context of the same tensor of one expert."""
        rows = self.thresholds.get(expert, {})
        threshold = rows.get(context.tensor, rows.get(MODEL, 0.0))
        return replace(context, expert=expert, index=list(self.models.experts).index(expert), threshold=threshold)

    def preprocess(self, recipe: Recipe, taus: Any, context: TensorContext) -> Any:
        """Overwrite the task vectors (T, ...) of one tensor with the preprocessed ones, and return them."""
        for t, expert in enumerate(self.models.experts):
            taus[t] = recipe.preprocess(taus[t], self.of_expert(context, expert))
        return taus


@dataclass(frozen=True)
class MergeRequest:
    """Everything that decides the bytes of a merge.

    Raises:
        UserError: the table is of other experts, an expert has no calibration where others have some, or an operator refuses a
            tensor by its shape.
    """

    models: Models
    recipe: Recipe
    table: CoefficientTable  # in the order of the experts
    thresholds: Thresholds = field(default_factory=dict)
    calibration: Mapping[str, Checkpoint] = field(default_factory=dict)  # statistics by expert, under the names of the tensors
    task: str | None = None
    seed: int = 0
    dtype: np.dtype | None = None  # of all floats of the output; None keeps those of the base
    compute: np.dtype = FLOAT64  # in which operators on whole tensors compute, see `whole_type`
    blas_threads: int = 1  # threads of the matrix library at a tensor so large that few fit the memory at once
    lifted: Mapping[str, LowRank] = field(default_factory=dict)  # merged task vectors that are known, by tensor (`merge.lift`)

    def __post_init__(self) -> None:
        """Check that coefficients and calibration are those of the experts, and that the operators take all tensors."""
        experts = list(self.models.experts)
        if experts != list(self.table.experts):
            raise UserError(f"coefficients are for the experts {list(self.table.experts)}, the merge has {experts}")
        if self.calibration and (missing := [expert for expert in experts if expert not in self.calibration]):
            raise UserError(f"calibration: none for the experts {missing}; expected one folder for each of {experts}")
        self.contexts.check(self.recipe)

    @cached_property
    def contexts(self) -> Contexts:
        """The contexts that the operators get."""
        return Contexts(self.models, self.thresholds, self.seed, self.task)

    @cached_property
    def merged(self) -> set[str]:
        """The names of the tensors that are merged."""
        return set(self.models.merged)

    @cached_property
    def types(self) -> dict[str, str]:
        """The type in which each tensor is written."""
        new = None if self.dtype is None else NAMES[self.dtype]
        return {name: new if new and e.is_float else e.dtype for name, e in self.models.base.entries.items()}

    def whole_type(self, name: str) -> np.dtype:
        """Return the type in which operators compute a whole tensor: `compute`, or that of the base if it is wider.

        Coordinates in a space are float64.
        """
        return np.promote_types(self.compute, DTYPES[self.models.base.entries[name].dtype])

    @cached_property
    def computed(self) -> np.dtype:
        """The narrowest type in which operators compute a whole tensor that an expert moves, see `whole_type`."""
        models = aligned(self.models, self.recipe.space)
        bases, experts = models.base.entries, [model.entries for model in models.experts.values()]
        moved = {bases[n].dtype for n in models.merged if any(entries[n] is not bases[n] for entries in experts)}
        types = [np.promote_types(self.compute, DTYPES[dtype]) for dtype in moved]
        return min(types, key=lambda dtype: dtype.itemsize, default=self.compute)

    @cached_property
    def statistics(self) -> list[Checkpoint]:
        """The calibration of every expert, in their order; [] where there is none."""
        return [self.calibration[expert] for expert in self.models.experts] if self.calibration else []
