"""The best candidate by its average over tasks on validation, the trace of a search, and how optimistic the best average is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from nan_merge.core.errors import UserError
from nan_merge.core.files import read_json
from nan_merge.data.metrics import score
from nan_merge.methods.search_space import Point

FOLDS = 5
Answers = Mapping[str, tuple[np.ndarray, np.ndarray]]  # predictions (N,) and labels (N,) by task


def points_of(known: Mapping[str, Point | None], trials: Iterable[Path]) -> dict[str, Point]:
    """Return the points of all candidates: those that are known, and of trials those in their files, in order."""
    files = iter(trials)
    return {name: read_json(next(files))["point"] if point is None else point for name, point in known.items()}


def best(averages: Mapping[str, float], points: Mapping[str, Point]) -> str:
    """Return the candidate with the best average; of equals the nearest to 0 where one number is chosen, else the first."""
    return max(sorted(averages, key=lambda name: _rank(points[name])), key=lambda name: averages[name])


def _rank(point: Point) -> tuple[float, float]:
    (value, *others) = point.values()
    return (abs(value), value) if not others and isinstance(value, int | float) else (0.0, 0.0)


def trace(
    scores: Mapping[str, Mapping[str, float]], points: Mapping[str, Point], pruned: Mapping[str, Mapping[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """Return one record a candidate, in order: point, score by task, average, and the best average so far.

    One of a `pruned` trial has the task after which it was stopped in place of the average.
    """
    records: list[dict[str, Any]] = []
    for name, by_task in scores.items():
        scored = {"pruned": pruned[name]["after"]} if pruned and name in pruned else {"average": fmean(by_task.values())}
        best_so_far = max(found for each in (scored, *records) if (found := each.get("average")) is not None)
        records.append({"candidate": name, "point": points[name], "tasks": dict(by_task), **scored, "best": best_so_far})
    return records


def cross_validated(
    answers: Mapping[str, Answers], metrics: Mapping[str, str], points: Mapping[str, Point], folds: int = FOLDS
) -> dict[str, Any]:
    """Return the average over tasks of a choice that has not seen the examples that it is scored on, and what was chosen.

    Example i of a task is in fold i mod K. For each fold, the best candidate on the others is chosen, and its answers to the
    fold are kept; the kept answers to all folds are scored (Stone 1974). The best average less this one is the optimism of
    choosing among the candidates. TPE and CMA-ES proposed their points, and `prune` stopped trials, which are not among the
    candidates here, by scores on all examples. It does not take that out.

    Raises UserError where a task has fewer validation examples than folds.
    """
    any_one = next(iter(answers.values()))
    kept = {task: prediction.copy() for task, (prediction, _) in any_one.items()}
    if short := [task for task, prediction in kept.items() if len(prediction) < folds]:
        raise UserError(
            f"{short[0]}: {len(kept[short[0]])} validation examples are fewer than the {folds} folds; enlarge the split"
        )
    chosen = []
    for fold in range(folds):
        averages = {name: _average(found, metrics, fold, folds) for name, found in answers.items()}
        chosen.append(best(averages, points))
        for task, (prediction, _) in answers[chosen[-1]].items():
            kept[task][fold::folds] = prediction[fold::folds]
    labels = {task: label for task, (_, label) in any_one.items()}
    return {"average": fmean(score(metrics[task], kept[task], labels[task]) for task in kept), "folds": chosen}


def _average(answers: Answers, metrics: Mapping[str, str], fold: int, folds: int) -> float:
    """Return the average over tasks on all folds but one."""
    scores = []
    for task, (prediction, label) in answers.items():
        others = np.arange(len(label)) % folds != fold
        scores.append(score(metrics[task], prediction[others], label[others]))
    return fmean(scores)


def read_answers(files: Sequence[Path]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return predictions and labels by task from the files of one candidate, in their order."""
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for file in files:
        with np.load(file) as arrays:
            tasks = [name.removesuffix(".label") for name in arrays.files if name.endswith(".label")]
            found |= {task: (arrays[f"{task}.prediction"], arrays[f"{task}.label"]) for task in tasks}
    return found
