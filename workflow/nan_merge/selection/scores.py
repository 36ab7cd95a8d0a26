"""Validation scores of candidates, and the rule by which the scoring of a trial is stopped (`prune` of a search).

It knows nothing of methods, so a score does not depend on the code of merges.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from statistics import fmean, median
from typing import Any

from nan_merge.core.files import read_json

WARM_UP = 5  # complete trials of earlier rounds, without which none is stopped; `n_startup_trials` of Optuna's MedianPruner


def validation_scores(files: Iterable[Path]) -> dict[str, dict[str, float]]:
    """Return the scores of candidates by id and task, in the order of the files; a pruned trial lacks tasks."""
    found: dict[str, dict[str, float]] = {}
    for file in files:
        for entry in read_json(file)["scores"]:
            found.setdefault(entry["method"], {})[entry["task"]] = entry["value"]
    return found


def pruned_trials(files: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Return the pruned trials by id: what `stopped` returned, and the number of examples by task that was not scored."""
    found: dict[str, dict[str, Any]] = {}
    for record in (record for file in files if (record := read_json(file).get("pruned"))):
        earlier = found.get(record["method"], {"unscored": {}})
        found[record["method"]] = {**record, "unscored": {**earlier["unscored"], **record["unscored"]}}
    return found


def complete_trials(files: Collection[Path]) -> dict[str, dict[str, float]]:
    """Return the scores of the candidates that were scored on all tasks."""
    pruned = pruned_trials(files)
    return {name: scores for name, scores in validation_scores(files).items() if name not in pruned}


def cost(files: Collection[Path]) -> dict[str, int]:
    """Return the number of pruned trials, of the validation examples that all trials were scored on, and of all examples."""
    pruned = pruned_trials(files)
    scored = sum(entry["n"] for file in files for entry in read_json(file)["scores"])
    saved = sum(sum(record["unscored"].values()) for record in pruned.values())
    return {"pruned": len(pruned), "examples_scored": scored, "examples": scored + saved}


def stopped(so_far: Mapping[str, float], complete: Collection[Mapping[str, float]]) -> dict[str, Any]:
    """Return why a trial is not scored on further tasks; empty if it is.

    It is the median stopping rule (Golovin et al. 2017, Google Vizier; MedianPruner of Optuna): the average over the tasks so far
    is below the median, over the complete trials of earlier rounds, of their averages over the same tasks. With fewer than
    `WARM_UP` of these no trial is stopped. A trial of the same round never counts, so the result does not depend on the order of
    jobs.

    DIFFERS: the rule compares the best value so far of the trial, as steps there are those of one learning curve. Steps here are
    tasks, which have scores of their own, so the average is compared.
    """
    if not so_far or len(complete) < WARM_UP:
        return {}
    average, bar = fmean(so_far.values()), median(fmean(scores[task] for task in so_far) for scores in complete)
    return {"after": [*so_far][-1], "average": average, "median": bar, "trials": len(complete)} if average < bar else {}
