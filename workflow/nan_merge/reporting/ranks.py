"""The table of ranks: how sure the order of the merges is, over other test examples and, with several seeds, other seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nan_merge.data.metrics import MEANS
from nan_merge.reporting import table_parts as parts
from nan_merge.reporting.formats import Table, interval, percent
from nan_merge.reporting.paired_tests import Answers
from nan_merge.reporting.pairs import AVERAGE, NO_ANSWERS, Standing, standings
from nan_merge.reporting.statistics import LEVEL, summarise
from nan_merge.reporting.study import Study

DRAWS = 2_000  # of the bootstrap
BATCH = 250  # of them at once
TESTED = (
    "Best: ≈ cannot be told apart from the best by a paired test, its p multiplied by the number of pairs of merges; no "
    "statement of equality."
)
LIMITS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)


def ranks(study: Study, record: Mapping[str, Any]) -> Table:
    """One row a merge, the best average first: interquartile mean, rank and their intervals, and probability of improvement."""
    header = ["Method", "Average", "IQM", "95 % interval", "Rank", "95 % interval", "Above others, %", "Best"]
    table = Table(study.title(dict(record)), header, text=(0, 7))
    rows = [row for row in summarise(study) if row.average.value is not None and not row.average.draws]
    rows = [row for row in rows if row.method.get("group") != "reference"]
    tasks = [task["id"] for task in study.tasks if study.metric(task["id"]) in MEANS]
    right = _right(study, [row.method["id"] for row in rows], tasks) if len(tasks) == len(study.tasks) else []
    standing = standings(study, study.answers)[AVERAGE] if right else Standing([], untested=NO_ANSWERS)
    for row, numbers in sorted(zip(rows, measured(right), strict=False), key=lambda each: each[1]["rank"]):
        name, label = row.method["id"], study.label(row.method["id"])
        mark = "best" if name in standing.best else "≈" if name in standing.alike else ""
        ranked = f"[{numbers['rank_low']:g}, {numbers['rank_high']:g}]"
        cells = [label, parts.estimated(table, row.average), percent(numbers["iqm"])]
        cells += [interval(numbers["iqm_low"], numbers["iqm_high"]), f"{numbers['rank']:g}", ranked]
        cells += [percent(numbers["improvement"], 0), mark]
        table.add(cells, {"method": name, "label": label, "average": row.average.value, **numbers, "best": mark})
    table.notes = [
        f"Merges without references and means of draws. Intervals: 95 % percentiles of {DRAWS:,} bootstrap draws of the examples"
        f"{', crossed with R − 1 of R seeds' if study.samples_seeds else ''}; they cover {study.covered}. IQM: mean of the "
        "middle half of the accuracies by task and seed (Agarwal et al. 2021). Above others: share of tasks, seeds and other "
        "merges that the merge is above, ties as half (probability of improvement, averaged). Equal averages share a mean rank.",
        standing.gap or TESTED,
    ]
    return table


def _right(study: Study, methods: Sequence[str], tasks: Sequence[str]) -> list[tuple[NDArray, NDArray]]:
    """Return for each task the correct answers (M, R, n) and the cluster of every example (n,); [] where some are missing."""
    suite, seeds = study.suite["id"], study.seeds
    keys = [(suite, method, task, seed) for method in methods for task in tasks for seed in seeds]
    if not keys or not all(key in study.answers for key in keys):
        return []

    def of(task: str) -> tuple[NDArray, NDArray]:
        given: list[list[Answers]] = [[study.answers[suite, method, task, seed] for seed in seeds] for method in methods]
        right = np.array([[each.credit for each in row] for row in given], np.float32)
        cluster = given[0][0].cluster
        return right, np.arange(right.shape[2]) if cluster is None else cluster

    return [of(task) for task in tasks]


def measured(right: Sequence[tuple[NDArray, NDArray]]) -> list[dict[str, float]]:
    """Return the numbers of each method by name, with the limits of interquartile mean and rank over bootstrap draws."""
    if not right:
        return []
    found, drawn = accuracies(right), resampled(right, np.random.default_rng(0))
    columns = {"iqm": iqm(found), "rank": rank(found), "improvement": improvement(found)}
    columns["iqm_low"], columns["iqm_high"] = np.quantile(iqm(drawn), LIMITS, axis=0)
    columns["rank_low"], columns["rank_high"] = np.quantile(rank(drawn), LIMITS, axis=0, method="inverted_cdf")  # drawn ranks
    return [dict(zip(columns, map(float, values), strict=True)) for values in zip(*columns.values(), strict=True)]


def accuracies(right: Sequence[tuple[NDArray, NDArray]]) -> NDArray:
    """Return the accuracies of methods by seed and task, (M, R, T)."""
    return np.stack([each.mean(axis=2, dtype=float) for each, _ in right], axis=2)


def resampled(right: Sequence[tuple[NDArray, NDArray]], random: np.random.Generator) -> NDArray:
    """Return the same over bootstrap draws, (DRAWS, M, R', T): of clusters of examples within a task, and of R' = R - 1 seeds.

    The draws of seeds and of examples are crossed, and the same for all methods, which keeps them paired (Owen 2007); R - 1 of R
    seeds make the variance over seeds unbiased. One seed is kept.
    """
    methods, seeds, _ = right[0][0].shape
    chosen = random.integers(0, seeds, (DRAWS, max(1, seeds - 1)))
    found = np.empty((DRAWS, methods, chosen.shape[1], len(right)))
    for index, (each, cluster) in enumerate(right):
        flat, size = each.reshape(methods * seeds, -1), int(cluster.max()) + 1
        for first in range(0, DRAWS, BATCH):
            last = min(DRAWS, first + BATCH)
            weights = random.multinomial(size, np.full(size, 1 / size), last - first).astype(np.float32)[:, cluster]
            means = (weights @ flat.T / weights.sum(axis=1, keepdims=True)).reshape(-1, methods, seeds)
            found[first:last, :, :, index] = np.take_along_axis(means, chosen[first:last, None, :], axis=2)
    return found


def rank(found: NDArray) -> NDArray:
    """Return the rank of each method by its average over seeds and tasks, (..., M, R, T) to (..., M); ties share a mean rank."""
    from scipy.stats import rankdata  # half a second, which no other table takes

    return rankdata(-found.mean(axis=(-2, -1)).round(9), axis=-1)


def iqm(found: NDArray) -> NDArray:
    """Return the interquartile mean over seeds and tasks, (..., M, R, T) to (..., M): a quarter is left out at either end."""
    from scipy.stats import trim_mean

    return trim_mean(found.reshape(*found.shape[:-2], -1), 0.25, axis=-1)


def improvement(found: NDArray) -> NDArray:
    """Return the share of tasks, seeds and other methods that each method is above, ties as half, (M, R, T) to (M,)."""
    signs = np.sign(found[:, None] - found[None]).mean(axis=(2, 3))  # 0 for a method and itself
    others = max(1, len(found) - 1)
    return (signs.sum(axis=1) / others + 1) / 2
