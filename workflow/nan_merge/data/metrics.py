"""Metrics of the predictions on a task, and their standard errors; a metric of two names is the mean of both."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nan_merge.core.errors import UserError
from nan_merge.data.dataset import is_number

RESAMPLES = 1000
Function = Callable[[NDArray, NDArray], float]


def accuracy(prediction: NDArray, label: NDArray) -> float:
    """Return the share of correct predictions."""
    return float((prediction == label).mean())


def ndcg_at_10(prediction: NDArray, label: NDArray) -> float:
    """Return the mean over queries of the DCG that is attained, as a share of the best, `label`."""
    return float(credit(prediction, label).mean())


def credit(prediction: NDArray, label: NDArray) -> NDArray:
    """Return what each example adds to one of the MEANS, (N,): 1 for the right class, else 0; of numbers the share of `label`."""
    return prediction.astype(float) / label if is_number(label) else (prediction == label).astype(int)


def f1(prediction: NDArray, label: NDArray) -> float:
    """Return the harmonic mean of precision and recall of class 1: 2 TP / (2 TP + FP + FN); 0 where class 1 never occurs."""
    found = int(np.count_nonzero(prediction == 1)) + int(np.count_nonzero(label == 1))
    return 2 * int(np.count_nonzero((prediction == 1) & (label == 1))) / found if found else 0.0


def pearson(prediction: NDArray, label: NDArray) -> float:
    """Return the linear correlation; ASSUME: 0 where one side is constant, which leaves it undefined."""
    x, y = (np.asarray(side, np.float64) - np.mean(side, dtype=np.float64) for side in (prediction, label))
    norm = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / norm if norm else 0.0


def spearman(prediction: NDArray, label: NDArray) -> float:
    """Return the linear correlation of the ranks; equal values share the mean of their ranks."""
    return pearson(_ranks(prediction), _ranks(label))


def matthews(prediction: NDArray, label: NDArray) -> float:
    """Return the correlation of two classes (Matthews 1975), which is the linear one of their numbers."""
    return pearson(prediction, label)


FUNCTIONS: dict[str, Function] = {each.__name__: each for each in (accuracy, f1, pearson, spearman, matthews, ndcg_at_10)}
MEANS = ("accuracy", "ndcg_at_10")  # metrics that are means over examples, so that tests can pair these
METRICS = {  # name in the config -> the metrics whose mean it is
    "accuracy": ("accuracy",),
    "matthews": ("matthews",),
    "f1_accuracy": ("f1", "accuracy"),
    "pearson_spearman": ("pearson", "spearman"),
}


def of_benchmark(harness: Mapping[str, Any]) -> str:
    """Return the metric of a benchmark by its entry `harness:`; of one without an entry accuracy."""
    return str(harness.get("correlation", "ndcg_at_10" if "retrieval" in harness else "accuracy"))


def score(metric: str, prediction: NDArray, label: NDArray) -> float:
    """Return a metric, or one of the metrics whose mean it is, of predictions (N,) for labels (N,)."""
    parts = METRICS.get(metric, (metric,))
    return sum(FUNCTIONS[part](prediction, label) for part in parts) / len(parts)


def scores_of(metric: str, split: str, prediction: NDArray, label: NDArray) -> dict[str, dict[str, float]]:
    """Return value and standard error by metric: the one of the task and, on the test split, its parts and accuracy.

    Raises UserError for a metric of classes on labels that are numbers, and the reverse.
    """
    if is_number(label) != is_number(prediction) or is_number(label) != (metric == "pearson_spearman"):
        raise UserError(f"metric {metric} does not fit labels of type {label.dtype}; correct `metrics:` of the suite")
    whole = [] if is_number(label) else ["accuracy"]  # what paired tests compare
    names = [*whole, *METRICS[metric], metric] if split == "test" else [metric]
    return {
        name: {"value": score(name, prediction, label), "stderr": standard_error(name, prediction, label)}
        for name in dict.fromkeys(names)
    }


def standard_error(metric: str, prediction: NDArray, label: NDArray) -> float:
    """Return the standard error over test examples: of accuracy by the binomial distribution, of others by a bootstrap."""
    if metric == "accuracy":
        value = accuracy(prediction, label)
        return math.sqrt(value * (1 - value) / len(label))
    random = np.random.default_rng(0)
    drawn = (random.integers(len(label), size=len(label)) for _ in range(RESAMPLES))
    return float(np.std([score(metric, prediction[rows], label[rows]) for rows in drawn], ddof=1))


def _ranks(values: NDArray) -> NDArray:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[places]
