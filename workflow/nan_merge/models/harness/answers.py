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
    """The answers to a benchmark, (N,) int64 each: hashes of right and given answers, and the group of every example.

    Groups are harness tasks, or those of the documents of one task. `cut` counts outputs that reached the limit of tokens, None
    where none are generated.
    """

    label: NDArray
    prediction: NDArray
    cluster: NDArray
    unanswered: int
    cut: int | None = None
    part: NDArray | None = None  # the harness task of every example; without it, the group

    @property
    def right(self) -> NDArray:
        """Whether each answer is right, (N,) bool."""
        return self.prediction == self.label

    def scores(self) -> list[dict[str, Any]]:
        """Return metric, value and standard error: accuracy over examples and tasks, shares without an answer and cut off."""
        right = self.right.astype(float)
        part = self.cluster if self.part is None else self.part
        sizes = np.bincount(part)
        means = np.bincount(part, right) / sizes
        shares = {"unanswered": self.unanswered, **({} if self.cut is None else {"cut_off": self.cut})}
        within = float(np.sqrt(np.sum(means * (1 - means) / sizes)) / len(sizes))
        return [
            {"metric": "accuracy", "value": float(right.mean()), "stderr": clustered_error(right, self.cluster)},
            {"metric": "macro_accuracy", "value": float(means.mean()), "stderr": within},
            *(
                {"metric": name, "value": share, "stderr": math.sqrt(share * (1 - share) / len(right))}
                for name, share in ((name, count / len(right)) for name, count in shares.items())
            ),
        ]


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


def answers(samples: Mapping[str, Sequence[Sample]]) -> Answers:
    """Return the answers to all harness tasks of a benchmark: of a right one the label, of a wrong one another hash."""
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
    return Answers(right, given, cluster, lacking, cut, parts)


def _hash(*parts: str) -> int:
    return xxh3_64_intdigest("\0".join(parts).encode()) >> 1
