"""Check suites that score the merges of another suite, their owner, on other or corrupted data."""

from __future__ import annotations

from typing import Any

from nan_merge.catalogue.files import known_names
from nan_merge.core.errors import UserError

Experiment = Any  # experiment.Experiment, which imports this module


def check_owners(experiment: Experiment) -> None:
    """Check every suite with `merges`, and every one with `corrupt`, which goes with it."""
    for suite, record in experiment.suites.items():
        if "merges" in record:
            _check_owner(experiment, suite, experiment.file(suite))
        if "corrupt" in record:
            _check_corruption(experiment, suite, experiment.file(suite))


def _check_owner(experiment: Experiment, suite: str, where: str) -> None:
    """Check that the run has the suite whose merges are scored, with tasks of the same kind and heads for those of this one."""
    record, owner = experiment.suites[suite], experiment.owner(suite)
    if owner not in experiment.suites:
        found = f"the merges of '{owner}' are scored, and that suite is not in the run"
        raise UserError(f"{where}: merges: {found}; name '{owner}' beside '{suite}' (`suites:` of the config)")
    for each in (suite, owner):
        known_names(f"{experiment.file(each)}: tasks", experiment.suites[each]["tasks"], experiment.tasks)
    if experiment.is_benchmarked(suite) != experiment.is_benchmarked(owner):
        kinds = ("prepared data sets", "benchmarks of a harness")
        here, there = (kinds[experiment.is_benchmarked(each)] for each in (suite, owner))
        raise UserError(f"{where}: tasks: they are {here}, and those of '{owner}', whose models are scored, {there}")
    if "head" in record and (others := [task for task in record["tasks"] if task not in experiment.suites[owner]["tasks"]]):
        reason = "with `head: expert` a task is scored by the head of its expert"
        raise UserError(f"{where}: tasks: {reason}, and '{others[0]}' is no task of '{owner}'; remove it")


def _check_corruption(experiment: Experiment, suite: str, where: str) -> None:
    """Check that inputs are corrupted of a suite with `merges`, in a way that they can be, by a strength of this kind."""
    record = experiment.suites[suite]
    kind, strength = record["corrupt"]["kind"], record["corrupt"]["strength"]
    if experiment.owner(suite) == suite:
        reason = "only of a suite that scores merges of another, which is scored on inputs as they are"
        raise UserError(f"{where}: corrupt: {reason}; write `merges: {suite}` in a file of its own")
    needed, of = ("tokenizer", "texts") if kind == "typos" else ("side", "pictures")
    if needed not in record.get("input", {}):
        found = "benchmarks, whose inputs a harness reads" if experiment.is_benchmarked(suite) else f"no {of}"
        raise UserError(f"{where}: corrupt: kind: {kind} is for prepared {of}, and the tasks are {found}; choose another kind")
    if strength > 1 if kind == "typos" else strength not in range(1, 6):
        expected = "a share of words, at most 1" if kind == "typos" else "a severity: 1, 2, 3, 4 or 5"
        raise UserError(f"{where}: corrupt: strength: expected {expected}, found {strength:g} for {kind}")
