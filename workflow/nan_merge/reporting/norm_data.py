"""Shares of experts, their spread, and norms by amount of data: the numbers of tables, figures and checks of norms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nan_merge.methods.coefficients import nan
from nan_merge.reporting.statistics import spearman
from nan_merge.reporting.study import Study

SPREAD = 0.01  # a relative spread of coefficients below one per cent is called uniform
NORMS = {"weights": "norm_weights", "task_vector": "norm_task_vector"}


def experts(study: Study) -> dict[str, dict[str, NDArray]]:
    """Return, by expert, whole-model norms of weights and task vector and the shares from them, each (seeds,)."""
    columns_of: dict[str, dict[str, list[float]]] = {}
    for _, measure in sorted(study.measures.items()):
        tensors = measure["tensors"].values()
        squared = {of: np.sum([tensor[of] for tensor in tensors], axis=0) for of in NORMS}
        norms = {of: np.sqrt(values) for of, values in squared.items()}
        columns = {
            **norms,
            "ratio": norms["task_vector"] / norms["weights"],
            **{f"alpha_{of}": nan(values, zero_norm="drop") for of, values in norms.items()},
        }
        for index, expert in enumerate(measure["experts"]):
            for name, values in columns.items():
                columns_of.setdefault(expert, {}).setdefault(name, []).append(float(values[index]))
    return {expert: {name: np.array(values) for name, values in row.items()} for expert, row in columns_of.items()}


def along_the_base(study: Study) -> float | None:
    """Return by how much the parts of two task vectors along the base differ, over the longest one; None without norms.

    |W|^2 - |tau|^2 = |W_0|^2 + 2 <W_0, tau>, so to first order in |tau| / |W| norms of weights tell experts apart only as far
    as these parts differ. The norm of the base is taken as that of the weights. The largest value over experts and seeds.
    """
    measured = list(experts(study).values())
    if not measured:
        return None
    weights, task_vectors = (np.array([row[of] for row in measured]) for of in NORMS)
    parts = (weights**2 - task_vectors**2) / (2 * weights.mean(axis=0))
    longest = task_vectors.max(axis=0)
    return float(np.max(np.ptp(parts, axis=0) / (longest + (longest == 0))))


def allowed_by_lengths(study: Study) -> float:
    """Return by how much, relative to them, norms of weights could differ for task vectors of these lengths.

    ||W_i| - |W_j|| <= |tau_i| + |tau_j|: the two longest, over the mean norm. The largest value over the seeds.
    """
    weights, task_vectors = (np.array([row[of] for row in experts(study).values()]) for of in NORMS)
    return float(np.max(np.sort(task_vectors, axis=0)[-2:].sum(axis=0) / weights.mean(axis=0)))


class Shares(NamedTuple):
    """Coefficients of one method: mean share (T,) of its experts; ratio and entropy by row and seed, None if undefined."""

    experts: list[str]
    scope: str
    rows: int
    coefficient: float
    mean: NDArray
    ratio: NDArray | None
    entropy: NDArray | None


def shares(study: Study, method: str) -> Shares | None:
    """Return the shares of one method over all its rows, seeds and draws, None where it has no coefficients."""
    members = study.members(method)
    tables = [table for table in study.coefficients if table["method"] in members and table["rows"]]
    if not tables:
        return None
    values = np.array([row for table in tables for row in table["rows"].values()], float)
    sums = values.sum(axis=1, keepdims=True)
    alpha = np.divide(values, sums, out=np.full_like(values, 1 / values.shape[1]), where=sums != 0)
    ratio = entropy = None
    if np.all(values > 0):
        ratio = values.max(axis=1) / values.min(axis=1)
        logs = -np.sum(alpha * np.log(alpha), axis=1)
        entropy = logs / np.log(values.shape[1]) if values.shape[1] > 1 else np.ones(len(values))
    first = tables[0]
    of = (first["experts"], first["scope"], len(first["rows"]))
    return Shares(*of, float(values.mean()), alpha.mean(axis=0), ratio, entropy)


def extent(name: str, values: NDArray | None) -> dict[str, float | None]:
    """Return mean, smallest and largest value as named columns."""
    parts = ("mean", "low", "high")
    if values is None:
        return dict.fromkeys((f"{name}_{part}" for part in parts), None)
    numbers = (values.mean(), values.min(), values.max())
    return {f"{name}_{part}": float(value) for part, value in zip(parts, numbers, strict=True)}


def relative_spread(values: NDArray) -> float:
    """Return largest over smallest, less one; infinity where the smallest is zero."""
    return float(np.max(values) / np.min(values) - 1) if np.min(values) else np.inf


class Line(NamedTuple):
    """Norms of one task over growing subsets: `inverse` is 1/norm relative to its mean, one value a subset."""

    task: str
    protocol: str
    seed: str
    examples: NDArray
    inverse: NDArray
    rank: float | None

    @property
    def trend(self) -> int:
        """1 where 1/norm grows with every step in the number of examples, -1 where it falls, else 0."""
        steps = np.sign(np.diff(self.inverse)).astype(int)
        return int(steps[0]) if len(steps) and np.all(steps == steps[0]) else 0


def lines(study: Study, of: str) -> list[Line]:
    """Return the premise's lines for one norm ("weights" or "task_vector"), by task, protocol and seed."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in study.premise:
        groups.setdefault((row["task"], row["protocol"], row["seed"]), []).append(row)
    result = []
    for (task, protocol, seed), rows in sorted(groups.items()):
        rows.sort(key=lambda row: int(row["examples"]))
        examples = np.array([int(row["examples"]) for row in rows])
        inverse = 1 / np.array([float(row[NORMS[of]]) for row in rows])
        result.append(Line(task, protocol, seed, examples, inverse / inverse.mean(), spearman(examples, inverse)))
    return result


class Point(NamedTuple):
    """One model: `group` are models that differ in the amount of training only, `inverse` is 1/norm."""

    group: str
    amount: float
    inverse: float


def by_amount(study: Study, of: str, amount: str) -> dict[str, list[Point]]:
    """Return by protocol the norms of models of one task that differ in the amount of training: `examples` or `steps`.

    They are experts whose training-set size, or share of the steps, changes with the seed, and runs of the premise experiment.
    """
    measured, settings = experts(study), study.suite.get("finetune", {})
    amounts = _sizes_by_seed(study) if amount == "examples" else _steps_by_seed(study)
    points = [
        Point(task, amounts[task, seed], 1 / float(measured[task][of][index]))
        for index, seed in enumerate(sorted(study.measures))
        for task in measured
        if (task, seed) in amounts
    ]
    name = "experts" if amount == "steps" else f"experts at equal {'epochs' if 'epochs' in settings else 'steps'}"
    found = {name: points} if points else {}
    for line in lines(study, of) if amount == "examples" else []:
        group = [Point(f"{line.task} {line.seed}", *each) for each in zip(line.examples, line.inverse, strict=True)]
        found.setdefault(f"nested subsets at equal {line.protocol}", []).extend(group)
    return found


def _sizes_by_seed(study: Study) -> dict[tuple[str, int], float]:
    sizes = {task["id"]: task["train"] for task in study.tasks if isinstance(task.get("train"), Mapping)}
    return {(task, int(seed)): size for task, by_seed in sizes.items() for seed, size in by_seed.items()}


def _steps_by_seed(study: Study) -> dict[tuple[str, int], float]:
    """Return the share of its steps that the expert of a task takes with a seed: all but task s mod T, with seed s, take all."""
    share, tasks = study.suite.get("finetune", {}).get("undertrained"), study.suite["tasks"]
    if not share or study.suite.get("skipped"):
        return {}
    return {
        (task["id"], seed): share if seed % len(tasks) == index else 1.0
        for index, task in enumerate(tasks)
        for seed in study.measures
    }


def exponent(points: Sequence[Point]) -> tuple[float, float, int] | None:
    """Return b of 1/norm = a_group amount^b by least squares of the logarithms, its standard error and degrees of freedom.

    One intercept a group, so that groups are not compared with each other (fixed effects). None where no amount changes within a
    group, or where nothing is left to estimate the error from. ASSUME: independent errors of one size.
    """
    x, y = (np.log([getattr(point, name) for point in points]) for name in ("amount", "inverse"))
    _, group = np.unique([point.group for point in points], return_inverse=True)
    x, y = (values - (np.bincount(group, values) / np.bincount(group))[group] for values in (x, y))
    freedom = len(points) - (int(group.max()) + 1) - 1
    if freedom < 1 or np.allclose(x, 0):
        return None
    square = np.sum(x * x)  # no BLAS, whose last bits depend on the processor
    slope = float(np.sum(x * y) / square)
    return slope, float(np.sqrt(np.sum((y - slope * x) ** 2) / freedom / square)), freedom
