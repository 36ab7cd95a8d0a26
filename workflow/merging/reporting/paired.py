"""Paired tests of two methods on the same test examples, stratified by task."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from merging.reporting.statistics import LEVEL, holm
from merging.results import UserError, read_json, write_table

FLIPS = 100_000
RESAMPLES = 10_000
FAMILIES = {"host": "nan", "control": "nan"}  # kinds of pairs that one Holm adjustment covers; others stand alone
COLUMNS = [
    "suite",
    "method",
    "against",
    "kind",
    "task",
    "difference",
    "low",
    "high",
    "p",
    "p_holm",
    "n",
    "discordant",
    "changed",
    "seeds",
]


class Paired(NamedTuple):
    """Two methods on the same examples: `difference` of the averages over tasks, method minus the other."""

    difference: float
    low: float
    high: float
    p: float


def paired(differences: Sequence[NDArray], seeds: int, weights: ArrayLike, random: np.random.Generator) -> Paired:
    """Test and estimate a weighted mean over tasks of per-example differences.

    `differences[t]` (n_t,) holds, for each example of task t, correct answers of the method less those of the other,
    summed over `seeds` fine-tuning seeds: integers from -seeds to seeds. Sign-flip test: under the null hypothesis
    the two methods' answers to an example may be swapped (for all its seeds at once), so each non-zero difference has
    either sign; p = (1 + flips at least as extreme) / (1 + flips). Interval: percentile bootstrap of the examples
    within each task. Without any discordant example the bootstrap has no width; then the interval is the exact 95 %
    bound on the share of discordant examples, put where it moves the average most.
    """
    w = np.asarray(weights, float) / np.sum(weights)
    scale = [weight / (seeds * len(d)) for weight, d in zip(w, differences, strict=True)]
    observed = float(sum(s * d.sum() for s, d in zip(scale, differences, strict=True)))
    if not any(d.any() for d in differences):
        bound = max(weight * (1 - (1 - LEVEL) ** (1 / len(d))) for weight, d in zip(w, differences, strict=True))
        return Paired(0.0, -float(bound), float(bound), 1.0)
    flips, means = np.zeros(FLIPS), np.zeros(RESAMPLES)
    for factor, d in zip(scale, differences, strict=True):
        for size, count in zip(*np.unique(np.abs(d[d != 0]), return_counts=True), strict=True):
            flips += factor * size * (2.0 * random.binomial(count, 0.5, FLIPS) - count)
        values, counts = np.unique(d, return_counts=True)
        means += factor * (random.multinomial(len(d), counts / len(d), RESAMPLES) @ values)
    extreme = int(np.sum(np.abs(flips) >= abs(observed) - 1e-12))
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Paired(observed, float(low), float(high), (1 + extreme) / (1 + FLIPS))


class _Answers(NamedTuple):
    prediction: NDArray
    label: NDArray


def compare_methods(
    files: Sequence[Path | str],
    pairs: Sequence[dict[str, str]],
    output: Path | str,
    sizes: dict[str, dict[str, int]] | None = None,
) -> None:
    """Compare pairs of methods example by example and write one row a pair (and one weighted by training-set size).

    Predictions lie beside each score file. `sizes[suite][task]` are the training-set sizes; where all are known, a
    second row `weighted_average` is written. A pair that lacks a task in common has empty numbers.
    """
    answers, tasks = _answers(files)
    rows = []
    for pair in pairs:
        suite = pair["suite"]
        sized = (sizes or {}).get(suite, {})
        weightings = {"average": [1.0] * len(tasks.get(suite, []))}
        if tasks.get(suite) and all(task in sized for task in tasks[suite]):
            weightings["weighted_average"] = [sized[task] for task in tasks[suite]]
        for name, weights in weightings.items():
            numbers = _compare(answers, pair, tasks.get(suite, []), weights)
            rows.append({**dict.fromkeys(COLUMNS, ""), **pair, "task": name, **numbers})
    families: dict[tuple[str, ...], list[dict]] = {}
    for row in rows:
        if row["p"] != "":
            families.setdefault((row["suite"], row["task"], FAMILIES.get(row["kind"], row["kind"])), []).append(row)
    for family in families.values():
        for row, p in zip(family, holm([row["p"] for row in family]), strict=True):
            row["p_holm"] = p
    write_table(output, rows, COLUMNS)


def _answers(files: Sequence[Path | str]) -> tuple[dict[tuple, _Answers], dict[str, list[str]]]:
    found: dict[tuple, _Answers] = {}
    tasks: dict[str, list[str]] = {}
    for file in files:
        scores = [row for row in read_json(file)["scores"] if row["metric"] == "accuracy"]
        if not scores:
            continue  # a candidate's validation scores are not compared
        beside = Path(file).with_suffix(".npz")
        if not beside.exists():
            raise UserError(f"{beside}: no predictions beside {file}; delete the score file and evaluate again")
        with np.load(beside) as arrays:
            for row in scores:
                names = [f"{row['task']}.{part}" for part in ("prediction", "label")]
                if any(name not in arrays for name in names):
                    raise UserError(f"{beside}: expected the arrays {names}, found {sorted(arrays)}; evaluate again")
                key = (row["suite"], row["method"], row["task"], int(row["seed"]))
                found[key] = _Answers(*(arrays[name] for name in names))
                if row["task"] not in tasks.setdefault(row["suite"], []):
                    tasks[row["suite"]].append(row["task"])
    return found, {suite: sorted(names) for suite, names in tasks.items()}


def _compare(answers: dict, pair: dict[str, str], tasks: list[str], weights: Sequence[float]) -> dict[str, Any]:
    """Return the numbers of one pair over the seeds that both have in every task, or none."""
    seeds = [
        {seed for suite, method, name, seed in answers if (suite, method, name) == (pair["suite"], who, task)}
        for who in (pair["method"], pair["against"])
        for task in tasks
    ]
    shared = sorted(set.intersection(*seeds)) if seeds else []
    if not shared:
        return {}
    differences, changed, discordant = [], 0, 0
    for task in tasks:
        a, b = ([answers[pair["suite"], who, task, seed] for seed in shared] for who in (pair["method"], pair["against"]))
        if any(not np.array_equal(x.label, a[0].label) for x in [*a, *b]):
            raise UserError(
                f"{pair['suite']}/{task}: {pair['method']!r} and {pair['against']!r} were tested on "
                "different examples; evaluate both again"
            )
        each = np.array([(x.prediction == x.label).astype(int) - (y.prediction == y.label) for x, y in zip(a, b, strict=True)])
        differences.append(each.sum(axis=0))
        discordant += int(np.count_nonzero(each))
        changed += sum(int(np.count_nonzero(x.prediction != y.prediction)) for x, y in zip(a, b, strict=True))
    random = np.random.default_rng(zlib.crc32(pair["suite"].encode()))  # same answers, same p, whatever the names
    return {
        **paired(differences, len(shared), weights, random)._asdict(),
        "discordant": discordant,
        "changed": changed,
        "n": sum(len(d) for d in differences) * len(shared),
        "seeds": " ".join(map(str, shared)),
    }


def number(row: dict[str, Any], column: str) -> float | None:
    """Read a number of a comparison row, None for an empty cell."""
    return None if row.get(column) in ("", None) else float(row[column])


def verdict(row: dict[str, Any]) -> str:
    """Say whether "method is above the other" holds, from the adjusted test and the interval together.

    A difference that is not significant decides nothing; without one discordant example
    there is no advantage to claim.
    """
    p, difference, low, high = (number(row, name) for name in ("p_holm", "difference", "low", "high"))
    if p is None or difference is None or low is None or high is None:
        return NOT_TESTED
    if number(row, "discordant") == 0 or (p < 1 - LEVEL and difference < 0 and high < 0):
        return FAILS
    if p < 1 - LEVEL and difference > 0 and low > 0:
        return HOLDS
    return UNDECIDED


HOLDS, FAILS, UNDECIDED, NOT_TESTED = "holds", "does not hold", "not decided", "not tested"
