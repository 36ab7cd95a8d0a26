"""Averages and their intervals: the only place where scores are averaged.

Test examples are taken as an independent sample within each task, several seeds as a sample of seeds; tasks are fixed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import (
    ndtri,
    stdtrit,
)  # quantiles of the normal distribution and Student's; scipy.stats takes half a second to import

from nan_merge.reporting.study import ACCURACY, VALIDATION, Score, Study

LEVEL = 0.95
POWER = 0.8
NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]\d+)?")
BASE, AVERAGING, INDIVIDUAL = "pretrained", "weight_averaging", "individual"


class Estimate(NamedTuple):
    """A number with its interval; `value` is None, with a reason, where it is not defined.

    With `draws` > 0 it is the mean of that many draws, and the limits are the smallest and the largest, not an interval.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    by_seed: tuple[float, ...] = ()
    reason: str = ""
    draws: int = 0

    @property
    def deviation(self) -> float | None:
        """Standard deviation over fine-tuning seeds (n - 1), None for fewer than two."""
        return float(np.std(self.by_seed, ddof=1)) if len(self.by_seed) > 1 else None


@dataclass(frozen=True)
class Summary:
    """One method on one suite."""

    method: dict[str, Any]
    tasks: dict[str, Estimate]
    average: Estimate
    weighted: Estimate
    normalised: Estimate


def wilson(value: float, n: float, level: float = LEVEL) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion `value` over `n` examples (Wilson 1927)."""
    z = ndtri((1 + level) / 2)
    centre = (value + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(value * (1 - value) / n + z * z / (4 * n * n))
    return float(max(0.0, centre - half)), float(min(1.0, centre + half))


def symmetric(value: float, error: float, level: float = LEVEL) -> tuple[float, float]:
    """Return the normal interval of a correlation or an F1 `value` with a standard error, cut to [-1, 1]."""
    half = ndtri((1 + level) / 2) * error
    return float(max(-1.0, value - half)), float(min(1.0, value + half))


def stratified(values: ArrayLike, n: Sequence[float], weights: ArrayLike | None = None) -> tuple[float, float, float]:
    """Return a weighted mean of independent proportions and its interval, from Wilson's limits of each.

    With one stratum this is Wilson's interval; the weights are scaled to sum to 1.
    """
    p = np.asarray(values, float)
    return joined(p, [wilson(value, size) for value, size in zip(p, n, strict=True)], weights)


def joined(values: ArrayLike, each: Sequence[tuple[float, float]], weights: ArrayLike | None) -> tuple[float, float, float]:
    """Return a weighted mean of independent estimates and its interval, from the limits of each.

    Square-and-add (MOVER; Newcombe 1998, Zou and Donner 2008): low = m - sqrt(sum w^2 (p - l)^2), high likewise.
    """
    p, limits = np.asarray(values, float), np.array(each)
    w = np.ones_like(p) if weights is None else np.asarray(weights, float)
    w = w / w.sum()
    mean = math.fsum(w * p)  # no BLAS, whose last bits depend on the processor
    low = mean - np.sqrt(np.sum((w * (p - limits[:, 0])) ** 2))
    high = mean + np.sqrt(np.sum((w * (limits[:, 1] - p)) ** 2))
    return mean, float(low), float(high)


def over_seeds(low: float, high: float, by_seed: Sequence[float]) -> tuple[float, float]:
    """Return limits of a mean over seeds from those over examples, `low` and `high`; of a single seed they stay.

    Student's limits of the mean of R values, R - 1 degrees of freedom, are joined to those over examples by square-and-add.
    They do not leave the range of scores, 0 to 1, where those over examples do not.
    ASSUME: the two are independent, so that noise of the examples which differs between seeds counts twice.
    """
    if len(by_seed) < 2:
        return low, high
    mean, half = np.mean(by_seed), stdtrit(len(by_seed) - 1, (1 + LEVEL) / 2) * np.std(by_seed, ddof=1) / np.sqrt(len(by_seed))
    below, above = float(mean - np.hypot(mean - low, half)), float(mean + np.hypot(high - mean, half))
    return below if low < 0 else max(below, 0.0), above if high > 1 else min(above, 1.0)


def holm(p: Sequence[float]) -> list[float]:
    """Return Holm's step-down adjusted p-values (Holm 1979), in the given order."""
    adjusted, worst = [0.0] * len(p), 0.0
    for rank, index in enumerate(np.argsort(p, kind="stable")):
        worst = max(worst, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = worst
    return adjusted


def detectable(error: float, comparisons: int) -> float | None:
    """Return the minimal detectable difference: the true one that a two-sided test finds with a chance of `POWER`.

    The level is that of the first step of Holm's method over so many comparisons; `error` is the standard error of the
    difference without an effect. By the normal approximation. None where the error is zero, since then it is not known.
    """
    return float(error * (ndtri(1 - (1 - LEVEL) / (2 * comparisons)) + ndtri(POWER))) if error else None


def spearman(x: ArrayLike, y: ArrayLike) -> float | None:
    """Return Spearman's rank correlation (ties by mean rank), None where one side is constant."""
    from scipy.stats import spearmanr

    return float(spearmanr(x, y).statistic) if np.ptp(x) and np.ptp(y) else None


def summarise(study: Study, split: str = "test") -> list[Summary]:
    """Return one summary a method, in the order of the methods, by the metrics of the tasks on a split: test or validation."""
    by_method: dict[str, list[Score]] = {}
    for score in study.reported(split):
        by_method.setdefault(score.method, []).append(score)
    best = _cells(study, by_method.get(INDIVIDUAL, []))
    return [_row(study, method, by_method, best) for method in study.methods]


def best_merge(study: Study) -> tuple[Summary | None, int]:
    """Return the merge with the best average on the test split, other than averaging, and out of how many.

    Every row that shows one merge counts: methods, NAN rows, controls, scans and ablations; the mean of several draws does not.
    """
    rows = [row for row in summarise(study) if row.average.value is not None and not row.average.draws]
    rows = [row for row in rows if row.method.get("group") != "reference" and row.method["id"] != AVERAGING]
    return max(rows, key=lambda row: row.average.value or 0.0, default=None), len(rows)


def average_of(study: Study, method: str, split: str) -> Estimate:
    """Return the average over tasks of one method, listed in the study or not."""
    cells = _cells(study, [row for row in study.reported(split) if row.method == method])
    return _mean(study, cells, lambda seed: [1.0] * len(study.tasks))


def candidates(study: Study) -> dict[str, dict[float, Estimate]]:
    """Return the validation averages of `<method>-<value>` by method and value; without points of several hyper-parameters."""
    found: dict[str, dict[float, Estimate]] = {}
    known = {method["id"] for method in study.methods}
    for name in dict.fromkeys(row.method for row in study.reported("validation")):
        method, _, value = name.partition("-")
        if method in known and NUMBER.fullmatch(value):
            found.setdefault(method, {})[float(value)] = average_of(study, name, "validation")
    return {method["id"]: found[method["id"]] for method in study.methods if method["id"] in found}


class _Cell(NamedTuple):
    by_seed: dict[int, float]
    n: float  # independent examples; of several seeds the fewest
    error: float | None  # standard error of a metric that is no proportion: that of the first seed

    def limits(self) -> tuple[float, float]:
        """Return the limits of the mean over seeds."""
        return wilson(self.mean, self.n) if self.error is None else symmetric(self.mean, self.error)

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return float(np.mean([self.by_seed[seed] for seed in sorted(self.by_seed)]))


def _cells(study: Study, scores: Iterable[Score]) -> dict[str, _Cell]:
    cells: dict[str, _Cell] = {}
    for row in scores:
        error = None if row.metric.removeprefix(VALIDATION) == ACCURACY else row.error
        cell = cells.get(row.task, _Cell({}, row.independent, error))
        cells[row.task] = cell._replace(by_seed={**cell.by_seed, row.seed: row.value}, n=min(cell.n, row.independent))
    return cells


def _row(study: Study, method: dict[str, Any], by_method: dict[str, list[Score]], best: dict[str, _Cell]) -> Summary:
    """Summarise a method, or all draws of a control."""
    if "skipped" in method:
        nothing = Estimate(None, reason=f"skipped: {method['skipped']}")
        return Summary(method, {task["id"]: nothing for task in study.tasks}, nothing, nothing, nothing)
    members = method.get("draws", [method["id"]])
    found = [_summary(study, method, _cells(study, by_method.get(name, [])), best) for name in members]
    return Summary(
        method,
        {task: _over_draws([each.tasks[task] for each in found]) for task in found[0].tasks},
        _over_draws([each.average for each in found]),
        _over_draws([each.weighted for each in found]),
        _over_draws([each.normalised for each in found]),
    )


def _over_draws(found: Sequence[Estimate]) -> Estimate:
    values = [each.value for each in found if each.value is not None]
    if len(values) < len(found) or len(found) == 1:
        return next((each for each in found if each.value is None), found[0])
    by_seed = tuple(float(np.mean(of)) for of in zip(*(each.by_seed for each in found), strict=False))
    reason = next((each.reason for each in found if each.reason), "")
    return Estimate(float(np.mean(values)), min(values), max(values), by_seed, reason, len(found))


def _summary(study: Study, method: dict[str, Any], cells: dict[str, _Cell], best: dict[str, _Cell]) -> Summary:
    tasks = [task["id"] for task in study.tasks]
    weighted = Estimate(None, reason="the training-set size of a task is unknown")
    if all(study.sizes_of(seed).keys() >= {*tasks} for seed in study.seeds):
        weighted = _mean(study, cells, lambda seed: [study.sizes_of(seed)[task] for task in tasks])
    return Summary(
        method,
        {task: _single(study, cells.get(task)) for task in tasks},
        _mean(study, cells, lambda seed: [1.0] * len(tasks)),
        weighted,
        _normalised(study, cells, best),
    )


def _single(study: Study, cell: _Cell | None) -> Estimate:
    if cell is None:
        return Estimate(None, reason="no score")
    values = tuple(cell.by_seed[seed] for seed in sorted(cell.by_seed))
    lacking = [str(seed) for seed in study.seeds if seed not in cell.by_seed]
    reason = f"without seed {', '.join(lacking)}" if lacking else ""
    return Estimate(cell.mean, *over_seeds(*cell.limits(), values), values, reason)


def _complete(study: Study, cells: dict[str, _Cell]) -> tuple[list[_Cell], list[int], str]:
    """Return the cells of all tasks, the seeds they share, and the reason why there is no average, or an empty text."""
    lacking = [study.label(task["id"]) for task in study.tasks if task["id"] not in cells]
    if lacking or not study.tasks:
        return [], [], f"no average without {', '.join(lacking) or 'tasks'}"
    found = [cells[task["id"]] for task in study.tasks]
    seeds = sorted(set.intersection(*(set(cell.by_seed) for cell in found)))
    if any(set(cell.by_seed) != set(seeds) for cell in found):
        return [], [], "no average: the tasks have scores of different seeds"
    return found, seeds, ""


def _mean(study: Study, cells: dict[str, _Cell], weights: Callable[[int], Sequence[float]]) -> Estimate:
    """Return the mean over tasks with the weights of each seed; the limits over examples are those of the mean weights."""
    found, seeds, reason = _complete(study, cells)
    if reason:
        return Estimate(None, reason=reason)
    of_seeds = np.array([weights(seed) for seed in seeds], float)
    constant = not np.ptp(of_seeds, axis=0).any()
    shares = of_seeds[0] if constant else (of_seeds / of_seeds.sum(axis=1, keepdims=True)).mean(axis=0)
    value, low, high = joined([cell.mean for cell in found], [cell.limits() for cell in found], shares)
    values = [[cell.by_seed[seed] for cell in found] for seed in seeds]
    by_seed = tuple(float(np.average(each, weights=given)) for each, given in zip(values, of_seeds, strict=True))
    if not constant:
        value, low, high = (limit + float(np.mean(by_seed)) - value for limit in (value, low, high))
    low, high = over_seeds(low, high, by_seed)
    lacking = [str(seed) for seed in study.seeds if seed not in seeds]
    return Estimate(value, low, high, by_seed, f"without seed {', '.join(lacking)}" if lacking else "")


def _normalised(study: Study, cells: dict[str, _Cell], best: dict[str, _Cell]) -> Estimate:
    found, seeds, reason = _complete(study, cells)
    bounds, known, lacking = _complete(study, best)
    if reason or lacking:
        return Estimate(None, reason=reason or f"{INDIVIDUAL} models: {lacking}")
    shared = [seed for seed in seeds if seed in known]
    if not shared or any(bound.by_seed[seed] <= 0 for bound in bounds for seed in shared):
        return Estimate(None, reason="no individual score above 0 to divide by")
    by_seed = tuple(
        float(np.mean([a.by_seed[seed] / b.by_seed[seed] for a, b in zip(found, bounds, strict=True)])) for seed in shared
    )
    return Estimate(float(np.mean(by_seed)), by_seed=by_seed)
