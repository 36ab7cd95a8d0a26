"""Which methods of a run do not apply to a suite, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nan_merge.catalogue.methods import misnamed, reads_examples, unfit
from nan_merge.methods.recipe import DEFAULTS, operator_in, requirements
from nan_merge.methods.units import ONE_BASE

Experiment = Any  # experiment.Experiment, which imports this module


def unfit_methods(experiment: Experiment, suite: str) -> dict[str, str]:
    """Return the methods of the run that do not apply to a suite, or to an entry of `models`, with the reason."""
    if (owner := experiment.owner(suite)) != suite:
        methods = [] if experiment.has_experts_of_tasks(suite) else experiment.config["methods"]
        unseen = [method for method in methods if _is_for_one_task(experiment, method)]
        reason = "it merges for one task at a time, and a task here has no expert"
        return unfit_methods(experiment, owner) | dict.fromkeys(unseen, reason)
    others = {*experiment.references, *experiment.absent(suite)}
    merged = [method for method in experiment.config["methods"] if method not in others]
    found = {method: why_unfit(experiment, method, suite) for method in merged}
    if suite in experiment.suites and not {"finetune", "multitask"} & experiment.suites[suite].keys():
        found["multitask"] = "its experts are fetched, and no model that was trained on all tasks is named (`multitask:`)"
    elif {"sizes", "undertrained"} & experiment.suites.get(suite, {}).get("finetune", {}).keys():
        found["multitask"] = "its experts are trained on other numbers of examples or steps with every seed"
    if suite in experiment.suites and experiment.is_benchmarked(suite):
        found["ensemble"] = "it is the mean of logits, and a harness reads those of one model"
    if experiment.has_networks(suite):
        found["pretrained"] = "its experts were trained from random weights, and have no base"
    found |= {method: found[tuner] for method in found if (tuner := experiment.tuner(method)) is not None}
    return {method: reason for method, reason in found.items() if reason}


def _is_for_one_task(experiment: Experiment, method: str) -> bool:
    return method not in experiment.references and not experiment.methods[method].get("static", True)


def why_unfit(experiment: Experiment, method: str, suite: str, experts: int = 0) -> str:
    """Return why a method does not apply to the experts of a suite, or to models of the user; empty if it applies.

    Of a subset, `experts` is their number.
    """
    record = experiment.methods[method]
    if reason := unfit(record, experts or len(experiment.merged_experts(suite, method))):
        return reason
    if not experts and (reason := misnamed(record, experiment.merged_experts(suite, method))):
        return reason
    if lost := [name for name in experiment.nested.leaves(suite, method) if name not in experiment.experts(suite)]:
        return f"the data of its expert {lost[0]} cannot be had here"
    if suite in experiment.suites and (space := operator_in(record, "space")[0]) != DEFAULTS["space"]:
        return f"the space '{space}' needs LoRA adapters, and a suite has whole models, into which adapters are folded"
    if "matching" in requirements(record, method) and not experiment.has_networks(suite):
        return ONE_BASE
    if reads_examples(record) and (unknown := [name for name, count in experiment.examples(suite).items() if count is None]):
        return f"the number of training examples is not stated for {', '.join(unknown)} (`examples:`)"
    if suite in experiment.models and ("calibration" in record or "learn" in record):
        return "it needs data of the tasks, and models of your own come without data"
    if suite not in experiment.suites:
        return ""
    return _lacks_data(experiment, suite, record) or _lacks_classes(experiment, suite, record)


def _lacks_data(experiment: Experiment, suite: str, record: Mapping[str, Any]) -> str:
    """Return which data or task of its experts a method needs that a suite does not have; empty if it needs none."""
    if not experiment.has_experts_of_tasks(suite):
        if not record.get("static", True):
            return "it merges for one task at a time, and the experts belong to no task"
        if {"calibration", "learn"} & record.keys():
            return "it needs data that each expert was trained on, and the experts belong to no task"
    if experiment.is_benchmarked(suite):
        if {"calibration", "learn"} & record.keys():
            return "it needs data of the tasks, and benchmarks are for tests only"
        if "tune" in record:
            return "it is tuned on validation, and benchmarks are for tests only"
    return ""


def _lacks_classes(experiment: Experiment, suite: str, record: Mapping[str, Any]) -> str:
    """Return why a method that reads class probabilities does not apply to a suite with a regression; empty if it does."""
    reads = "learn" in record or experiment.calibration.get(record.get("calibration", ""), {}).get("kind") == "fisher"
    numbers = [experiment.tasks[task]["label"] for task in experiment.task_ids(suite) if experiment.is_regression(task)]
    return f"it needs class probabilities, and the labels of {', '.join(numbers)} are numbers" if reads and numbers else ""
