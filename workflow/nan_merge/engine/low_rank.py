"""Merge adapters of one base into an adapter: factors where the merged task vector is one, whole tensors elsewhere."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from nan_merge.core.errors import UserError
from nan_merge.core.progress import Progress, no_progress
from nan_merge.engine.devices import CPU, Device
from nan_merge.engine.merge import lift, stream
from nan_merge.engine.request import MergeRequest
from nan_merge.layouts.unify import Models
from nan_merge.layouts.updates import LowRank, low_rank
from nan_merge.methods.recipe import Recipe
from nan_merge.methods.spaces import full


@dataclass(frozen=True)
class Factors:
    """A matrix B A of rank r at most, B (out, r) and A (r, in), and the squared norms of all of it and of what it lacks."""

    b: np.ndarray
    a: np.ndarray
    square: float
    lost: float = 0.0


@dataclass(frozen=True)
class Plan:
    """What an adapter holds, by tensor of the base: `factored` with the ranks, the others `whole`.

    `exact` are those whose merged task vector is a sum of products of the experts' factors.
    """

    factored: Mapping[str, int]
    exact: frozenset[str]
    whole: tuple[str, ...]


@dataclass
class LowRankMerge:
    """The tensors of a merge as an adapter has them."""

    factors: dict[str, Factors] = field(default_factory=dict)
    whole: dict[str, np.ndarray] = field(default_factory=dict)  # (*shape), float64

    def errors(self) -> dict[str, float]:
        """Return the relative error ||lost|| / ||all|| of every factored tensor."""
        return {name: math.sqrt(f.lost / f.square) if f.square else 0.0 for name, f in sorted(self.factors.items())}

    def error(self) -> dict[str, Any]:
        """Return the relative error of all factored tensors together, and the largest of one, with its name."""
        each = self.errors()
        square, lost = (math.fsum(getattr(f, key) for f in self.factors.values()) for key in ("square", "lost"))
        largest = max(each, key=each.__getitem__)
        total = math.sqrt(lost / square) if square else 0.0
        return {"total": total, "largest": each[largest], "tensor": largest}


def sample(models: Models, name: str) -> LowRank:
    """Return the update of the first expert that has factors for a tensor."""
    return next(update for expert in models.experts.values() if (update := low_rank(expert.entries[name])))


def plan(models: Models, recipe: Recipe, rank: int | None) -> Plan:
    """Return what an adapter of rank `rank` holds of a merge; without a rank, of the sum of the experts' ranks.

    Raises UserError for a tensor whose rank is not known without `rank`, and for a rank above the size of a tensor.
    """
    factored: dict[str, int] = {}
    exact, whole = set(), []
    is_factored = recipe.is_linear or recipe.space.func is not full
    for name in models.merged:
        base = models.base.entries[name]
        moved = [expert.entries[name] for expert in models.experts.values() if expert.entries[name] is not base]
        updates = [update for entry in moved if (update := low_rank(entry))]
        if len(updates) < len(moved):
            whole.append(name)
        if not updates or len(updates) < len(moved):
            continue
        size = min(updates[0].b.shape[0], updates[0].a.size // updates[0].a.shape[0])
        if rank is not None and rank > size:
            raise UserError(f"--output-adapter {rank}: above the size of '{name}' {list(base.shape)}; expected from 1 to {size}")
        if is_factored and all(entry is update and update.base is base for entry, update in zip(moved, updates, strict=True)):
            exact.add(name)
        elif rank is None:
            raise UserError(
                f"--output-adapter: the merged task vector of '{name}' is no sum of the experts' products B A, since"
                f" {'an expert rescales or replaces the weight below them' if is_factored else 'the method is no weighted sum'},"
                " so it has no rank of its own; state one: --output-adapter RANK"
            )
        factored[name] = min(size, rank or sum(update.b.shape[1] for update in updates))
    if not factored:
        raise UserError("--output-adapter: all that the experts move they store whole, or `exclude` omits it; expected factors")
    return Plan(factored, frozenset(exact), tuple(whole))


def concatenated(updates: Sequence[tuple[float, LowRank]], rank: int) -> Factors:
    """Return sum_t c_t B_t A_t: the factors beside each other, or their best approximation of a smaller rank."""
    pairs = [(c, *update.factors()) for c, update in updates]
    b, a = np.concatenate([c * left for c, left, _ in pairs], axis=1), np.concatenate([right for _, _, right in pairs])
    (q, r), (p, s) = np.linalg.qr(b), np.linalg.qr(a.T)
    cut = truncated(r @ s.T, min(rank, *r.shape, *s.shape))
    exact = Factors(b, a, cut.square)
    return exact if b.shape[1] <= rank else Factors(q @ cut.b, cut.a @ p.T, cut.square, cut.lost)


def truncated(matrix: np.ndarray, rank: int | None, energy: float = 1.0) -> Factors:
    """Return the best approximation of a matrix (out, in) of a rank (Eckart and Young, 1936), the singular values in halves.

    Without a rank it is the smallest one that keeps the share `energy` of the squared norm.
    """
    u, values, v = np.linalg.svd(matrix, full_matrices=False)
    squares = values.astype(np.float64) ** 2
    if rank is None:
        rank = 1 + int(np.argmax(np.cumsum(squares) >= energy * squares.sum() * (1 - 1e-15)))
    half = np.sqrt(values[:rank])
    return Factors(u[:, :rank] * half, half[:, None] * v[:rank], math.fsum(squares), math.fsum(squares[rank:]))


def merge_low_rank(
    request: MergeRequest,
    plan: Plan,
    *,
    threads: int = 1,
    device: Device = CPU,
    progress: Progress = no_progress,
) -> tuple[LowRankMerge, dict[str, str]]:
    """Merge into the tensors of an adapter: (tensors, digests of the inputs as of `stream`).

    Tensors that are no exact sums are merged in the type of computation and reduced one by one, in that of whole tensors; see
    `merge` for the rest.
    Raises UserError where the method moves a tensor that no adapter moves.
    """
    request = lift(request, threads=threads, device=device)
    merge = _Collector(request, plan)
    wide = replace(request, dtype=np.dtype(np.float64))
    digests = stream(wide, merge.write, threads=threads, device=device, progress=progress)
    if merge.strays:
        raise UserError(
            f"--output-adapter: the method moves '{min(merge.strays)}', which no adapter of an expert moves; merge into a whole"
            " model, or choose another --method"
        )
    with threadpool_limits(1):  # of the matrix library, which would add up in another order
        for name in plan.exact:
            merge.found.factors[name] = concatenated(_updates(request, name), plan.factored[name])
    return merge.found, digests


def _updates(request: MergeRequest, name: str) -> list[tuple[float, LowRank]]:
    """Return (coefficient, update) of every expert that moves a tensor by factors, or the update that a space merged."""
    if name in request.lifted:
        return [(1.0, request.lifted[name])]
    entries = [expert.entries[name] for expert in request.models.experts.values()]
    return [(c, entry) for c, entry in zip(request.table.at(name), entries, strict=True) if isinstance(entry, LowRank)]


class _Collector:
    """Take the pieces of merged tensors, and reduce each tensor as soon as it is complete."""

    def __init__(self, request: MergeRequest, plan: Plan) -> None:
        self.request, self.plan, self.found = request, plan, LowRankMerge()
        self.parts: dict[str, tuple[np.ndarray, list[int]]] = {}
        self.lock, self.strays = threading.Lock(), set[str]()
        self.steps: dict[str, Callable[[str, np.ndarray], None]] = dict.fromkeys(plan.whole, self._keep)
        self.steps |= dict.fromkeys(plan.factored.keys() - plan.exact, self._reduce)

    def write(self, name: str, first: int, stored: np.ndarray) -> None:
        """Take the values (n,) of a merged tensor from its element `first` on, in float64."""
        entry = self.request.models.base.entries[name]
        if name not in self.steps:
            if name in self.request.merged and name not in self.plan.exact and not self.request.recipe.is_linear:
                origin = entry.block(first, first + len(stored)).astype(np.float64)
                if not np.array_equal(origin, stored):
                    self.strays.add(name)
            return
        with self.lock:
            values, left = self.parts.setdefault(name, (np.empty(entry.size), [entry.size]))
        values[first : first + len(stored)] = stored
        with self.lock:
            left[0] -= len(stored)
            is_last = not left[0]
        if is_last:
            self.steps[name](name, self.parts.pop(name)[0].reshape(entry.shape))

    def _keep(self, name: str, values: np.ndarray) -> None:
        self.found.whole[name] = values

    def _reduce(self, name: str, values: np.ndarray) -> None:
        update = sample(self.request.models, name)
        base = self.request.models.base.read(name).astype(np.float64)
        tau = (values - base).T if update.transposed else (values - base).reshape(len(values), -1)
        self.found.factors[name] = truncated(tau.astype(self.request.whole_type(name)), self.plan.factored[name])
