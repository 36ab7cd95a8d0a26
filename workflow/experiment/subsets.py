"""Random subsets of the experts of a suite: which are drawn, and which methods merge them.

arXiv 2511.21437 samples subsets of 2 to 12 experts. DIFFERS: it scores every merge on all benchmarks; here a merge is scored on
the tasks of its own experts.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence
from typing import Any

from experiment.comparisons import INDIVIDUAL
from experiment.fitness import why_unfit
from nan_merge.catalogue.methods import COLLECTED_TOGETHER, misnamed
from nan_merge.core.errors import UserError

Experiment = Any  # experiment.Experiment, which imports this module

BY_WHOLE_SUITE = {  # keys of a method whose value comes from all experts, or that stands for several merges
    "tune": "it is tuned for all experts",
    "learn": "its coefficients are learned for all experts",
    "sweep": "it is one of several draws or values",
}


def drawn(experts: Sequence[str], size: int, draws: int, seed: int) -> list[list[str]]:
    """Return `draws` distinct random subsets of `size` experts, or all subsets where fewer exist; experts keep their order.

    Subset by subset, the experts are ordered by SHA-256 of seed, size, number of the attempt and name, and the first ones are
    taken; a subset that was drawn before is passed over. So a subset depends neither on `draws`, nor on the order of the
    experts, nor on a library's generator of random numbers.
    """
    found: dict[frozenset[str], list[str]] = {}
    wanted = min(draws, math.comb(len(experts), size))
    for attempt in itertools.count():
        if len(found) == wanted:
            return list(found.values())

        def place(expert: str, attempt: int = attempt) -> bytes:
            return hashlib.sha256(f"{seed}/{size}/{attempt}/{expert}".encode()).digest()

        chosen = {*sorted(experts, key=place)[:size]}
        found.setdefault(frozenset(chosen), [expert for expert in experts if expert in chosen])
    raise AssertionError  # the count has no end


def subsets(experiment: Experiment, suite: str) -> dict[str, list[str]]:
    """Return the drawn subsets of a suite by id, `<size>-<number>`; {} where none are asked for, or the suite makes no merges."""
    asked = experiment.config.get("subsets")
    if not asked or experiment.owner(suite) != suite or suite in experiment.models:
        return {}
    experts = experiment.experts(suite)
    return {
        f"{size}-{number}": chosen
        for size in sorted(asked["sizes"])
        for number, chosen in enumerate(drawn(experts, size, asked["draws"], asked.get("seed", 0)))
    }


def parts(experiment: Experiment, suite: str) -> dict[str, list[str]]:
    """Return the subsets that lack an expert: the merges of all experts are those of the suite."""
    everyone = len(experiment.experts(suite))
    return {name: chosen for name, chosen in subsets(experiment, suite).items() if len(chosen) < everyone}


def merging(experiment: Experiment, suite: str, size: int) -> list[str]:
    """Return the methods of the run that merge subsets of a size, in the order of the tables."""
    others = {*experiment.references, *experiment.nested.rows}
    methods = [method for method in experiment.config["methods"] if method not in others]
    return [method for method in methods if not _reason(experiment, suite, method, size)]


def _reason(experiment: Experiment, suite: str, method: str, size: int) -> str:
    """Return why a method does not merge subsets of a size; empty if it does."""
    record = experiment.methods[method]
    if not record.get("static", True):
        return "it merges for one task at a time"
    if experiment.calibration.get(record.get("calibration"), {}).get("kind") in COLLECTED_TOGETHER:
        return "its calibration statistics are collected for all experts together"
    if misnamed(record, ()):
        return "its hyper-parameters are stated for each expert of the suite"
    by_whole = [reason for key, reason in BY_WHOLE_SUITE.items() if key in record]
    return next(iter(by_whole), "") or why_unfit(experiment, method, suite, size)


def check_subsets(experiment: Experiment) -> None:
    """Check that the run can score subsets: suites with individual models and prepared data, sizes that they have."""
    if not (asked := experiment.config.get("subsets")):
        return
    where = experiment.where("subsets")
    if INDIVIDUAL not in experiment.config["methods"]:
        raise UserError(f"{where}: accuracies are divided by those of the individual models; add `{INDIVIDUAL}` to `methods`")
    suites = [suite for suite in experiment.suites if experiment.owner(suite) == suite]
    if not suites:
        raise UserError(f"{where}: no suite of the run makes merges; name one (`suites:`), or remove the key")
    for suite in suites:
        if reason := _unfit(experiment, suite):
            raise UserError(f"{where}: {reason}; run '{suite}' without the key")
        experts = len(experiment.suites[suite]["tasks"])
        if large := [size for size in asked["sizes"] if size > experts]:
            place = experiment.where("subsets", "sizes")
            raise UserError(f"{place}: expected at most {experts}, the number of experts of '{suite}'; found {large[0]}")


def _unfit(experiment: Experiment, suite: str) -> str:
    """Return why subsets of the experts of a suite cannot be scored; empty if they can."""
    if not experiment.has_experts_of_tasks(suite):
        return f"the experts of '{suite}' belong to no task, so there are no individual models to compare with"
    if experiment.is_benchmarked(suite):
        return f"the tasks of '{suite}' are benchmarks of a harness, and subsets are scored on prepared data"
    if experiment.is_joint(suite):
        return f"the classes of all tasks of '{suite}' are told apart (`joint`), and a subset is scored task by task"
    others = [task for task in experiment.suites[suite]["tasks"] if experiment.metric(suite, task) != "accuracy"]
    return f"task '{others[0]}' of '{suite}' is not scored by accuracy, as subsets are" if others else ""
