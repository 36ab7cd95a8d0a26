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

    Of a task that is scored by a `correlation`, right and given answers are numbers, (N,) float32.

    Groups are harness tasks, or those of the documents of one task. `cut` counts outputs that reached the limit of tokens, None
    where none are generated.
    """

    label: NDArray
    prediction: NDArray
    cluster: NDArray
    unanswered: int
    cut: int | None = None
    part: NDArray | None = None  # the harness task of every example; without it, the group
    correlation: str | None = None

    @property
    def right(self) -> NDArray:
        """Whether each answer is right, (N,) bool."""
        return self.prediction == self.label

    def scores(self) -> list[dict[str, Any]]:
        """Return metric, value and standard error: accuracies or the correlation, shares without an answer and cut off."""
        size, counts = len(self.label), {"unanswered": self.unanswered, **({} if self.cut is None else {"cut_off": self.cut})}
        return [
            *(self._accuracies() if self.correlation is None else [self._correlation(self.correlation)]),
            *(
                {"metric": name, "value": share, "stderr": math.sqrt(share * (1 - share) / size)}
                for name, share in ((name, count / size) for name, count in counts.items())
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

    def _correlation(self, metric: str) -> dict[str, Any]:
        value, error = (compute(metric, self.prediction, self.label) for compute in (score, standard_error))
        return {"metric": metric, "value": value, "stderr": error}


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


def answers(samples: Mapping[str, Sequence[Sample]], correlation: str | None = None) -> Answers:
    """Return the answers to all harness tasks of a benchmark: of a right one the label, of a wrong one another hash.

    With `correlation`, right and given answers are the numbers that they state, as in FusionBench 0 for a text that is none.
    DIFFERS: FusionBench takes `nan` and `inf` for numbers, after which no correlation is defined.
    """
    rows = [(part, sample) for part, name in enumerate(samples) for sample in samples[name]]
    groups = [part if len(samples) > 1 else sample.get("group", part) for part, sample in rows]
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    label = [_hash("right", sample["doc_hash"], sample["target"]) for _, sample in rows]
    prediction = [
        right if sample["right"] else _hash("wrong", sample["answer"]) for right, (_, sample) in zip(label, rows, strict=True)
    ]
    lacking = sum(not sample["found"] for _, sample in rows)
    columns = (label, prediction, [numbers[group] for group in groups], [part for part, _ in rows])
    right, given, cluster, parts = (np.array(column, np.int64) for column in columns)
    cut = sum(sample["cut"] for _, sample in rows) if all("cut" in sample for _, sample in rows) else None
    if correlation:
        stated = np.array([[_number(sample[key]) for key in ("target", "answer")] for _, sample in rows], np.float32)
        return Answers(stated[:, 0], stated[:, 1], cluster, lacking, cut, parts, correlation)
    return Answers(right, given, cluster, lacking, cut, parts)


def _number(text: str) -> float:
    try:
        return number if math.isfinite(number := float(text)) else 0.0
    except ValueError:
        return 0.0


def _hash(*parts: str) -> int:
    return xxh3_64_intdigest("\0".join(parts).encode()) >> 1
