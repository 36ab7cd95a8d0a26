"""Accuracies of merges of random subsets of the experts, by the number of experts, with intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from nan_merge.core.errors import UserError
from nan_merge.core.files import read_json
from nan_merge.reporting.paired_tests import Answers
from nan_merge.reporting.statistics import INDIVIDUAL, LEVEL
from nan_merge.reporting.study import Study

DRAWS, BATCH = 2_000, 250  # of the bootstrap, and of them at once


class Limited(NamedTuple):
    """A mean over subsets and seeds, as a fraction, with its 95 % limits."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Point:
    """One method on all subsets of one size; `difference` is to its host, in accuracy, None without one."""

    method: dict[str, Any]
    size: int
    subsets: int
    complete: bool  # whether these are all subsets of the size
    accuracy: Limited
    normalised: Limited  # mean over tasks of the accuracy divided by that of the individual model
    difference: Limited | None


def read_subsets(files: Iterable[Path | str]) -> dict[tuple[str, str, str, int], Answers]:
    """Read the predictions beside score files of subsets: answers by (`<suite>/<subset>`, method, task, seed)."""
    found = {}
    for file in files:
        with np.load(Path(file).with_suffix(".npz")) as arrays:
            for row in read_json(file)["scores"]:
                method, task = row["method"], row["task"]
                answers = Answers(arrays[f"{method}/{task}.prediction"], arrays[f"{task}.label"], method)
                found[row["suite"], method, task, int(row["seed"])] = answers
    return found


def points(study: Study) -> list[Point]:
    """Return the points of every method that merged all drawn subsets of a size, size by size, in the order of the methods.

    Answers of the merges of a subset are kept under its `<suite>/<subset>`, those of all experts under the suite itself.
    """
    suite, everyone = study.suite["id"], len(study.experts)
    named = study.suite.get("subsets", {}).items()
    places = {suite if len(chosen) == everyone else f"{suite}/{name}": chosen for name, chosen in named}
    if not places or not _has(study, INDIVIDUAL, suite, {task for chosen in places.values() for task in chosen}):
        return []
    methods = [method for method in study.methods if method["id"] != INDIVIDUAL and _merges(study, method, places)]
    found = averages(study, methods, places)
    counts = [len(chosen) for chosen in places.values()]
    sizes = {size: [number for number, count in enumerate(counts) if count == size] for size in sorted({*counts})}
    complete = {size: len(numbers) == math.comb(everyone, size) for size, numbers in sizes.items()}
    drawn = _drawn(study, methods, places, sizes, complete)
    return [
        point
        for size, numbers in sizes.items()
        for point in _of_size(size, methods, found[0][:, numbers], drawn[size], complete[size])
    ]


def _drawn(
    study: Study,
    methods: Sequence[Mapping[str, Any]],
    places: Mapping[str, Sequence[str]],
    sizes: Mapping[int, Sequence[int]],
    complete: Mapping[int, bool],
) -> dict[int, NDArray]:
    """Return bootstrap draws of the averages over subsets and seeds, (DRAWS, M, 2) by size."""
    random = np.random.default_rng(0)
    found: dict[int, list[NDArray]] = {size: [] for size in sizes}
    for _ in range(DRAWS // BATCH):
        batch = averages(study, methods, places, random)
        for size, numbers in sizes.items():
            shares = _shares(len(numbers), complete[size], random), _shares(len(study.seeds), False, random)
            found[size].append(np.einsum("bmdrk,bd,br->bmk", batch[:, :, numbers], *shares))
    return {size: np.concatenate(parts) for size, parts in found.items()}


def _of_size(size: int, methods: Sequence[dict[str, Any]], found: NDArray, drawn: NDArray, complete: bool) -> Iterator[Point]:
    """Yield the points of one size from averages (M, D, R, 2) and their bootstrap draws (B, M, 2)."""
    whole = {method["id"]: index for index, method in enumerate(methods) if not np.isnan(found[index, ..., 0]).any()}
    for index, method in ((whole[each["id"]], each) for each in methods if each["id"] in whole):
        accuracy, normalised = (limits(found[index, ..., kind], drawn[:, index, kind], complete) for kind in (0, 1))
        host, gap = whole.get(method.get("host", "")), None
        if host is not None:
            gap = limits((found[index] - found[host])[..., 0], drawn[:, index, 0] - drawn[:, host, 0], complete)
        yield Point(method, size, found.shape[1], complete, accuracy, normalised, gap)


def _merges(study: Study, method: Mapping[str, Any], places: Mapping[str, Sequence[str]]) -> bool:
    """Return whether a method merged some subset that lacks an expert, if there is one, or is a reference."""
    parts = {place: chosen for place, chosen in places.items() if place != study.suite["id"]} or places
    return _is_reference(method) or any(_has(study, method["id"], place, chosen) for place, chosen in parts.items())


def _is_reference(method: Mapping[str, Any]) -> bool:
    return method.get("group") == "reference"


def _has(study: Study, method: str, place: str, tasks: Iterable[str]) -> bool:
    return all((place, method, task, seed) in study.answers for task in tasks for seed in study.seeds)


def averages(
    study: Study,
    methods: Sequence[Mapping[str, Any]],
    places: Mapping[str, Sequence[str]],
    random: np.random.Generator | None = None,
) -> NDArray:
    """Return averages over the tasks of each subset, (B, M, D, R, 2): accuracy, and accuracy by that of the individual models.

    M methods, D subsets, R seeds; NaN where a method did not merge a subset. A reference is the same model for all subsets.
    Without `random` B is 1; with it, each of BATCH rows weighs the examples of a task (clusters, where they come in groups) by
    another bootstrap draw, the same for all methods, subsets and seeds.
    """
    suite, seeds = study.suite["id"], study.seeds
    found = np.zeros((BATCH if random else 1, len(methods), len(places), len(seeds), 2))
    for task in dict.fromkeys(task for chosen in places.values() for task in chosen):
        individual = [study.answers[suite, INDIVIDUAL, task, seed] for seed in seeds]
        weights = _weights(individual[0], random)
        best = _means(individual, weights)
        for (m, method), (d, (place, chosen)) in product(enumerate(methods), enumerate(places.items())):
            own = suite if _is_reference(method) else place
            if not _has(study, method["id"], own, chosen):
                found[:, m, d] = np.nan
            elif task in chosen:
                answers = [study.answers[own, method["id"], task, seed] for seed in seeds]
                _check_labels([*individual, *answers], f"{own}: '{method['id']}' and '{INDIVIDUAL}'", task)
                accuracy = _means(answers, weights)
                with np.errstate(divide="ignore", invalid="ignore"):
                    found[:, m, d] += np.stack([accuracy, accuracy / best], axis=-1) / len(chosen)
    return found


def _check_labels(answers: Sequence[Answers], of: str, task: str) -> None:
    if any(not np.array_equal(each.label, answers[0].label) for each in answers):
        raise UserError(f"{of} were tested on different examples of '{task}'; score both again")


def _weights(answers: Answers, random: np.random.Generator | None) -> NDArray:
    """Return the weights of the examples of a task, (B, n)."""
    count = len(answers.label)
    if random is None:
        return np.full((1, count), 1 / count)
    cluster = np.arange(count) if answers.cluster is None else answers.cluster
    size = int(cluster.max()) + 1
    drawn = random.multinomial(size, np.full(size, 1 / size), BATCH)[:, cluster].astype(np.float64)
    return np.asarray(drawn / drawn.sum(axis=1, keepdims=True))


def _means(answers: Sequence[Answers], weights: NDArray) -> NDArray:
    """Return the weighted shares of right answers by seed, (B, R)."""
    return np.asarray(weights @ np.array([each.prediction == each.label for each in answers], float).T)


def _shares(count: int, complete: bool, random: np.random.Generator) -> NDArray:
    """Return how much each of `count` subsets (or seeds) counts in each bootstrap draw, (BATCH, count).

    `count` - 1 are drawn, which makes their variance unbiased (Owen 2007); one, or all that there are, is no sample.
    """
    if count == 1 or complete:
        return np.full((BATCH, count), 1 / count)
    return np.asarray(random.multinomial(count - 1, np.full(count, 1 / count), BATCH) / (count - 1))


def limits(found: NDArray, drawn: NDArray, complete: bool) -> Limited:
    """Return the mean of (D, R) values with Student's limits by the standard deviation of its bootstrap draws (B,).

    Degrees of freedom by Satterthwaite (1946): V^2 / sum_k(V_k^2 / (n_k - 1)), where V is the variance of the mean and V_k the
    part of the n_k subsets, or seeds; at least the smallest n_k - 1. The part of the examples has no such limit.
    """
    kinds = [found.mean(axis=1)] * (not complete) + [found.mean(axis=0)]  # by subset, by seed
    samples = [values for values in kinds if len(values) > 1]
    variance = float(np.var(drawn, ddof=1))
    parts = sum((float(np.var(each, ddof=1)) / len(each)) ** 2 / (len(each) - 1) for each in samples)
    least = min((len(each) - 1 for each in samples), default=math.inf)
    freedom = max(float(least), variance**2 / parts) if parts else math.inf
    half, value = float(stdtrit(freedom, (1 + LEVEL) / 2)) * variance**0.5, float(found.mean())
    return Limited(value, value - half, value + half)
