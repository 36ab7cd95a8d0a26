"""The points of a search: quasi-random (Sobol), or by earlier scores (TPE of Optuna, CMA-ES of cmaes).

A point depends on the search, the number of its trial and the scores of earlier rounds alone: the sampler is made anew with its
seed, and the rounds are replayed. So a trial that is repeated, on any machine, has the same point.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cmaes
import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from scipy.stats import qmc

from nan_merge.methods.search_space import Dimension, Search

Key = tuple[str, str]  # path of a hyper-parameter, and the expert that the number is for, or ""
Axes = Mapping[Key, Dimension]


class Outcome(NamedTuple):
    """The average validation score of a trial; of a pruned one over the first tasks alone, `pruned` in number."""

    average: float
    pruned: int = 0


def propose(search: Search, number: int, experts: Sequence[str], outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return the points of trials 1 to `number` of a search, each {path of a hyper-parameter: value}.

    `outcomes` are those of the trials of earlier rounds, `search.earlier(number)`, in their order. Where every range has a start,
    the first trial of TPE and CMA-ES is these starts, the method as it is.

    Averages over different tasks are not compared: a pruned trial is worse than every complete one, and of two pruned ones that
    is better which was scored on more tasks, or else the one with the higher average. So does TPE of Optuna rank trials with the
    state PRUNED, and CMA-ES, which knows of no such trials, is told these ranks: it uses nothing of scores but their order.
    """
    axes = {key: dimension for dimension in search.space for key in _keys(dimension, experts)}
    drawn = SAMPLERS[search.kind](search, number, axes, outcomes)
    points: list[dict[str, Any]] = [{} for _ in drawn]
    for point, values in zip(points, drawn, strict=True):
        for (path, expert), value in values.items():
            if expert:
                point.setdefault(path, {})[expert] = value
            else:
                point[path] = value
    return points


def _keys(dimension: Dimension, experts: Sequence[str]) -> list[Key]:
    return [(dimension.path, expert) for expert in (experts if dimension.each else [""])]


def _sobol(search: Search, number: int, axes: Axes, outcomes: Sequence[Outcome]) -> list[dict[Key, Any]]:
    """Return the first points of a scrambled Sobol sequence (Sobol 1967, Owen 1998)."""
    sequence = qmc.Sobol(len(axes), scramble=True, rng=search.seed)
    return [_in(axes, sequence.random(1)[0]) for _ in range(number)]


def _cma_es(search: Search, number: int, axes: Axes, outcomes: Sequence[Outcome]) -> list[dict[Key, Any]]:
    """Return the first points of CMA-ES (Hansen 2016, arXiv 1604.00772) in the unit cube; a round is a generation.

    It begins at the starts, or where a range has none in its middle, with a step of a sixth of each range. The mean of the first
    generation takes the place of its first point.
    """
    mean = np.array([_share(axis) for axis in axes.values()])
    bounds = np.tile([0.0, 1.0], (len(axes), 1))
    optimiser = cmaes.CMA(mean.copy(), 1 / 6, bounds=bounds, seed=search.seed, population_size=search.batch)
    points: list[dict[Key, Any]] = []
    while len(points) < number:
        asked = [optimiser.ask() for _ in range(search.batch)]
        asked = asked if points else [mean, *asked[1:]]
        told = outcomes[len(points) : len(points) + search.batch]
        points += [_in(axes, unit) for unit in asked]
        if len(told) == search.batch:
            ranked = sorted(range(search.batch), key=lambda trial: _standing(told[trial]), reverse=True)
            optimiser.tell([(asked[trial], float(rank)) for rank, trial in enumerate(ranked)])
    starts = {key: axis.start for key, axis in axes.items() if axis.start is not None}
    return [{**points[0], **starts}, *points[1:number]]  # to the last bit


def _standing(outcome: Outcome) -> tuple[float, float]:
    """Return what trials are ranked by, the best last: complete ones, then pruned ones by their tasks, then by averages."""
    return (outcome.pruned or math.inf, outcome.average)


def _share(axis: Dimension) -> float:
    """Return where the start of a range lies in it, from 0 to 1; one half without a start."""
    if axis.start is None:
        return 0.5
    low, high, start = (math.log(x) if axis.log else x for x in (axis.low, axis.high, axis.start))
    return (start - low) / (high - low)


def _in(axes: Axes, unit: Sequence[float]) -> dict[Key, Any]:
    """Return the point of a space at a point of the unit cube."""
    return {key: _at(axis, float(u)) for (key, axis), u in zip(axes.items(), unit, strict=True)}


def _at(axis: Dimension, u: float) -> Any:
    """Return the value at u in [0, 1] of a list or a range; whole numbers have equal shares, in the logarithm with `log`."""
    if axis.choices:
        return axis.choices[min(int(u * len(axis.choices)), len(axis.choices) - 1)]
    end = axis.high + axis.integer  # a whole number n has the range from n to n + 1
    value = axis.low * (end / axis.low) ** u if axis.log else axis.low + u * (end - axis.low)
    return int(min(math.floor(value), axis.high)) if axis.integer else float(min(value, axis.high))


def _tpe(search: Search, number: int, axes: Axes, outcomes: Sequence[Outcome]) -> list[dict[Key, Any]]:
    """Return the first points of the tree-structured Parzen estimator (Bergstra et al. 2011), over all ranges at once."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    names = {f"{path} {expert}".strip(): key for key in axes for path, expert in [key]}
    distributions = {name: _distribution(axes[key]) for name, key in names.items()}
    starts = {name: axes[key].start for name, key in names.items() if axes[key].start is not None}
    whole = len(starts) == len(axes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(seed=search.seed, multivariate=True, constant_liar=True)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        if whole:
            study.enqueue_trial(starts)
        for first in range(0, number, search.batch):
            asked = [study.ask(distributions) for _ in range(first, min(first + search.batch, number))]
            for trial, outcome in zip(asked, outcomes[first : first + search.batch], strict=False):
                if outcome.pruned:
                    trial.report(outcome.average, step=outcome.pruned)
                    study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                else:
                    study.tell(trial, outcome.average)
    return [{key: trial.params[name] for name, key in names.items()} for trial in study.trials[:number]]


def _distribution(axis: Dimension) -> BaseDistribution:
    if axis.choices:
        return CategoricalDistribution(axis.choices)
    if axis.integer:
        return IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    return FloatDistribution(axis.low, axis.high, log=axis.log)


SAMPLERS = {"sobol": _sobol, "tpe": _tpe, "cma_es": _cma_es}
