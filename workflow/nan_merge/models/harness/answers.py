"""The answers to a benchmark, as hashes, and their scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from nan_merge.data.metrics import score, standard_error

Sample = dict[str, Any]  # what is kept of an example: `harness.run`


class Answers(NamedTuple):
    """The answers to a benchmark, (N,) int64 each: hashes of right and given answers, and the group of every example.

    Of a task with another `metric` than accuracy, right and given answers are numbers, (N,) float32.

    Groups are harness tasks, or those of the documents of one task. `unanswered` counts outputs without an answer, `cut` those
    that reached the limit of tokens; None where there are no such outputs.
    """

    label: NDArray
    prediction: NDArray
    cluster: NDArray
    unanswered: int | None = None
    cut: int | None = None
    part: NDArray | None = None  # the harness task of every example; without it, the group
    metric: str = "accuracy"

    @property
    def right(self) -> NDArray:
        """Whether each answer is right, (N,) bool."""
        return self.prediction == self.label

    def scores(self) -> list[dict[str, Any]]:
        """Return metric, value and standard error: accuracies or the other metric, shares without an answer and cut off."""
        size, counts = len(self.label), {"unanswered": self.unanswered, "cut_off": self.cut}
        return [
            *(self._accuracies() if self.metric == "accuracy" else [self._of_numbers()]),
            *(
                {"metric": name, "value": share, "stderr": math.sqrt(share * (1 - share) / size)}
                for name, share in ((name, count / size) for name, count in counts.items() if count is not None)
            ),
        ]

    def _accuracies(self) -> list[dict[str, Any]]:
        """Return the accuracy over examples, and the mean over tasks."""
        right = self.right.astype(float)
        part = self.cluster if self.part is None else self.part
        sizes = np.bincount(part)
        means = np.bincount(part, right) / sizes
        within = float(np.sqrt(np.sum(means * (1 - means) / sizes)) / len(sizes))
        return [
            {"metric": "accuracy", "value": float(right.mean()), "stderr": clustered_error(right, self.cluster)},
            {"metric": "macro_accuracy", "value": float(means.mean()), "stderr": within},
        ]

    def _of_numbers(self) -> dict[str, Any]:
        value, error = (compute(self.metric, self.prediction, self.label) for compute in (score, standard_error))
        return {"metric": self.metric, "value": value, "stderr": error}


def clustered_error(values: NDArray, cluster: NDArray) -> float:
    """Return the standard error of a mean of values (N,) that come in clusters (N,), numbered from 0.

    Residuals are summed within each of the G clusters, with the factor G / (G - 1) (Cameron and Miller 2015, eq. 11 for a mean);
    with one cluster, or one for each example, it is the binomial error of independent examples.
    """
    mean, count = values.mean(), int(cluster.max()) + 1
    if count in (1, len(values)):
        return float(np.sqrt(mean * (1 - mean) / len(values)))
    sums = np.bincount(cluster, values - mean)
    return float(np.sqrt(count / (count - 1) * np.sum(sums**2)) / len(values))


def answers(samples: Mapping[str, Sequence[Sample]], metric: str = "accuracy") -> Answers:
    """Return the answers to all harness tasks of a benchmark: of a right one the label, of a wrong one another hash.

    With another `metric`, right and given answers are the numbers that they state, as in FusionBench 0 for a text that is none.
    DIFFERS: FusionBench takes `nan` and `inf` for numbers, after which no correlation is defined.
    """
    rows = [(part, sample) for part, name in enumerate(samples) for sample in samples[name]]
    groups = [part if len(samples) > 1 else sample.get("group", part) for part, sample in rows]
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    cluster, parts = (np.array(column, np.int64) for column in ([numbers[group] for group in groups], [part for part, _ in rows]))
    found, cut = (
        sum(sample[key] for _, sample in rows) if all(key in sample for _, sample in rows) else None for key in ("found", "cut")
    )
    lacking = None if found is None else len(rows) - found
    if metric != "accuracy":
        stated = np.array([[_number(sample[key]) for key in ("target", "answer")] for _, sample in rows], np.float32)
        return Answers(stated[:, 0], stated[:, 1], cluster, lacking, cut, parts, metric)
    label = [_hash("right", sample["doc_hash"], sample["target"]) for _, sample in rows]
    prediction = [
        right if sample["right"] else _hash("wrong", sample["answer"]) for right, (_, sample) in zip(label, rows, strict=True)
    ]
    return Answers(np.array(label, np.int64), np.array(prediction, np.int64), cluster, lacking, cut, parts)


def _number(text: str) -> float:
    try:
        return number if math.isfinite(number := float(text)) else 0.0
    except ValueError:
        return 0.0


def _hash(*parts: str) -> int:
    return xxh3_64_intdigest("\0".join(parts).encode()) >> 1
