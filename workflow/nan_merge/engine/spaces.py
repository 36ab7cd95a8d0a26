"""Merge adapters in a space (`methods.spaces`): views of the models that hold coordinates, and back to task vectors.

Only tensors that all experts leave alone or move by plain factors have coordinates; the others stay task vectors.
"""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from nan_merge.checkpoints.pickles import ArrayTensor
from nan_merge.checkpoints.safetensors_file import Tensor
from nan_merge.core.errors import UserError
from nan_merge.engine import measure
from nan_merge.engine.measure import not_finite
from nan_merge.layouts.unify import Models
from nan_merge.layouts.updates import LowRank, low_rank
from nan_merge.layouts.views import view
from nan_merge.methods.coefficients import MODEL
from nan_merge.methods.spaces import Coordinates, bound, full

KEPT = 32  # tensors whose coordinates are kept in memory; the others are computed again


@dataclass
class Zeros(Tensor):
    """A tensor of zeros: the origin of coordinates."""

    def block(self, start: int, stop: int, buffer: np.ndarray | None = None) -> np.ndarray:
        """Return zeros (stop - start,)."""
        out = self.space(stop - start, buffer)
        out[:] = 0
        return out


@dataclass
class Origin(Zeros):
    """The origin of the coordinates of a tensor; `moved` are the experts' updates, by their place among the experts."""

    moved: Mapping[int, LowRank]
    coordinates: Callable[[], Coordinates]  # the blocks are in the order of `moved`

    def lifted(self, block: np.ndarray) -> LowRank:
        """Return the task vector of a merged block (p, q), as factors on zeros in the place of the tensor."""
        like = next(iter(self.moved.values()))
        b, a = (ArrayTensor("F64", factor.shape, factor) for factor in self.coordinates().factors(block))
        return replace(like, dtype="F64", base=Zeros("F64", like.shape), b=b, a=a, scale=1.0)


@dataclass
class Block(Tensor):
    """The coordinates of the update of one expert: number `number` of those that move the tensor."""

    origin: Origin
    number: int

    def block(self, start: int, stop: int, buffer: np.ndarray | None = None) -> np.ndarray:
        """Compute the elements `start` to `stop`, flattened in C order: (stop - start,)."""
        out = self.space(stop - start, buffer)
        out[:] = self.origin.coordinates().blocks[self.number].reshape(-1)[start:stop]
        return out


class _Computed:
    """Coordinates by tensor, of which the last ones are kept; one is computed at a time, on one thread of the matrix library."""

    def __init__(self, models: Models, space: functools.partial[Any]) -> None:
        self.models, self.space = models, space
        self.kept: OrderedDict[str, Coordinates] = OrderedDict()
        self.lock = threading.Lock()

    def of(self, name: str, moved: Mapping[int, LowRank]) -> Coordinates:
        """Return the coordinates of a tensor; UserError for NaN and infinity."""
        with self.lock:
            if name not in self.kept:
                with threadpool_limits(1):  # which would add up in another order
                    self.kept[name] = self.space([self._factors(name, place, update) for place, update in moved.items()])
                while len(self.kept) > KEPT:
                    self.kept.popitem(last=False)
            return self.kept[name]

    def _factors(self, name: str, place: int, update: LowRank) -> tuple[np.ndarray, np.ndarray]:
        pair = update.factors()
        if not all(np.isfinite(factor).all() for factor in pair):
            raise not_finite([*self.models.experts.values()][place], name)
        return pair


def aligned(models: Models, space: functools.partial[Any]) -> Models:
    """Return models in a space: coordinates of adapters in place of their tensors, from zero; `full` leaves them as they are.

    No tensor is read. Raises UserError for an expert that is no adapter, or whose task vectors are no products of factors.
    """
    if space.func is full:
        return models
    what, computed = f"space '{space.func.__name__}'", _Computed(models, space)
    for expert, model in models.experts.items():
        if model.adapter is None:
            raise UserError(
                f"{what}: expert '{expert}' ({model.folder}) is a whole model; expected LoRA adapters only, whose factors have"
                " common bases. Make an adapter of it first (nan-merge extract-adapter), or choose a method without a space"
            )
    bases, experts = dict(models.base.entries), [dict(model.entries) for model in models.experts.values()]
    for name in models.merged:
        if not (moved := _factored(models, name, what)):
            continue
        shape = _shape(space.func, list(moved.values()))
        origin = Origin("F64", shape, moved, functools.partial(computed.of, name, moved))
        bases[name] = origin
        for entries in experts:
            entries[name] = origin
        for number, place in enumerate(moved):
            experts[place][name] = Block("F64", shape, origin, number)
    if not any(isinstance(entry, Origin) for entry in bases.values()):
        raise UserError(
            f"{what}: all that the experts move they store whole, or `exclude` omits it; expected adapters with factors"
        )
    views = {name: view(model, new) for (name, model), new in zip(models.experts.items(), experts, strict=True)}
    return replace(models, base=view(models.base, bases), experts=views)


def _factored(models: Models, name: str, what: str) -> dict[int, LowRank]:
    """Return the updates of a tensor by the place of their expert; none where an expert stores it whole or none moves it."""
    base = models.base.entries[name]
    moved = {t: e for t, model in enumerate(models.experts.values()) if (e := model.entries[name]) is not base}
    if any(low_rank(entry) is None for entry in moved.values()):
        return {}
    for t, entry in moved.items():
        if not isinstance(entry, LowRank) or entry.base is not base:
            raise UserError(
                f"{what}: expert '{list(models.experts)[t]}' rescales the weight below its factors of '{name}' (DoRA) or replaces"
                " it, so its task vector is no product B A; expected plain LoRA. Choose a method without a space"
            )
    return {t: entry for t, entry in moved.items() if isinstance(entry, LowRank)}


def _shape(operator: Any, moved: Sequence[LowRank]) -> tuple[int, int]:
    out, into = moved[0].b.shape[0], moved[0].a.size // moved[0].a.shape[0]
    shape: tuple[int, int] = operator.shape(out, into, [update.b.shape[1] for update in moved])
    return shape


def thresholds(models: Models, density: Any, *, scope: str, space: Any = None, **settings: Any) -> dict[str, dict[str, float]]:
    """Return the thresholds of `measure.thresholds` in a space, `{name: hyper-parameters}`, or in none.

    DIFFERS: with `scope: model` the share is taken over all coordinates together, as in the code of KnOTS, and once more over the
    tensors that an expert stores whole; tensors that no adapter moves do not count.
    """
    if space is None:
        return measure.thresholds(models, density, scope=scope, **settings)
    inner = aligned(models, bound(space))
    entries = inner.base.entries
    inside = tuple(name for name in inner.merged if isinstance(entries[name], Origin))
    whole = tuple(
        name
        for name in inner.merged
        if name not in inside and any(model.entries[name] is not entries[name] for model in inner.experts.values())
    )
    found = measure.thresholds(replace(inner, merged=inside), density, scope=scope, **settings)
    if whole:
        others = measure.thresholds(replace(inner, merged=whole), density, scope=scope, **settings)
        for expert, rows in others.items():
            found[expert] |= {name: rows[name if name in rows else MODEL] for name in whole}
    return found
