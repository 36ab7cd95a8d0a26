"""The answers to a benchmark, as hashes, and their scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

Sample = dict[str, Any]  # what is kept of an example: `harness.run`


class Answers(NamedTuple):
    """The answers to a benchmark, (N,) int64 each: hashes of right and given answers, and the harness task of every example."""

    label: NDArray
    prediction: NDArray
    cluster: NDArray
    unanswered: int

    @property
    def right(self) -> NDArray:
        """Whether each answer is right, (N,) bool."""
        return self.prediction == self.label

    def scores(self) -> list[dict[str, Any]]:
        """Return metric, value and standard error: accuracy over examples and over tasks, share without an answer."""
        right = self.right.astype(float)
        sizes = np.bincount(self.cluster)
        means = np.bincount(self.cluster, right) / sizes
        lacking = self.unanswered / len(right)
        within = float(np.sqrt(np.sum(means * (1 - means) / sizes)) / len(sizes))
        return [
            {"metric": "accuracy", "value": float(right.mean()), "stderr": clustered_error(right, self.cluster)},
            {"metric": "macro_accuracy", "value": float(means.mean()), "stderr": within},
            {"metric": "unanswered", "value": lacking, "stderr": math.sqrt(lacking * (1 - lacking) / len(right))},
        ]


def clustered_error(values: NDArray, cluster: NDArray) -> float:
    """Return the standard error of a mean of values (N,) that come in clusters (N,), numbered from 0.

    Residuals are summed within each of the G clusters, with the factor G / (G - 1) (Cameron and Miller 2015, eq. 11 for a mean);
    with one cluster it is the binomial error of independent examples.
    """
    mean, count = values.mean(), int(cluster.max()) + 1
    if count == 1:
        return float(np.sqrt(mean * (1 - mean) / len(values)))
    sums = np.bincount(cluster, values - mean)
    return float(np.sqrt(count / (count - 1) * np.sum(sums**2)) / len(values))


def answers(samples: Mapping[str, Sequence[Sample]]) -> Answers:
    """Return the answers to all harness tasks of a benchmark: of a right one the label, of a wrong one another hash."""
    rows = [(cluster, sample) for cluster, name in enumerate(samples) for sample in samples[name]]
    label = [_hash("right", sample["doc_hash"], sample["target"]) for _, sample in rows]
    prediction = [
        right if sample["right"] else _hash("wrong", sample["answer"]) for right, (_, sample) in zip(label, rows, strict=True)
    ]
    lacking = sum(not sample["found"] for _, sample in rows)
    columns = (label, prediction, [cluster for cluster, _ in rows])
    right, given, parts = (np.array(column, np.int64) for column in columns)
    return Answers(right, given, parts, lacking)


def _hash(*parts: str) -> int:
    return xxh3_64_intdigest("\0".join(parts).encode()) >> 1
