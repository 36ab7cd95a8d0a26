"""Paired tests of all pairs of methods on the same test examples, adjusted for their number."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nan_merge.core.errors import UserError
from nan_merge.core.files import read_json, write_table
from nan_merge.data.metrics import MEANS, credit
from nan_merge.reporting.paired_difference import paired_over_seeds
from nan_merge.reporting.statistics import LEVEL, detectable, holm
from nan_merge.reporting.study import Size, size_of

CORRECTION_GROUPS = {"host": "nan", "control": "nan"}  # kinds of pairs that share one Holm adjustment; others have their own
COLUMNS = [
    "suite",
    "method",
    "against",
    "kind",
    "task",
    "difference",
    "low",
    "high",
    "within",
    "p",
    "p_holm",
    "least_p",
    "least_p_holm",
    "detectable",
    "n",
    "discordant",
    "changed",
    "improvement",
    "seeds",
    "draws",
    "above",
    "same_as",
]
ITSELF = "itself"  # in `same_as`: the two methods are one model


class Answers(NamedTuple):
    """Predictions of one model for the test examples of one task, (n,) each, with the right answers."""

    prediction: NDArray
    label: NDArray
    model: str  # the digest of the model that gave them, or the id of the method where the score file has none
    cluster: NDArray | None = None  # of every example, where examples come in groups

    @property
    def credit(self) -> NDArray:
        """What each example adds to the metric of the task, (n,)."""
        return credit(self.prediction, self.label)


def compare_methods(
    files: Sequence[Path | str],
    pairs: Sequence[dict[str, Any]],
    output: Path | str,
    sizes: dict[str, dict[str, Size]] | None = None,
) -> None:
    """Compare pairs of methods example by example and write one row a pair; predictions lie beside the score files, as .npz.

    `pairs` are records with `suite`, `method`, `against` and `kind`. One with `task` compares on that task alone, and is adjusted
    with the others on it; without, on the average of all. With `draws`, the method is compared with the mean of
    these methods and the row counts those it exceeds. A pair without a common task has empty numbers. Where `sizes`, the
    training-set sizes by suite and task, are all known, a second row `weighted_average` is written; sizes that change with the
    seed weight the answers of each seed.

    Models are told apart by the digests in the provenance of the score files, so that two methods that are one model (a value
    chosen on validation that is the fixed one) count once: `same_as` names the earlier pair of the same models, `METHOD
    against AGAINST`, or is `itself` where a pair is one model.
    """
    answers, tasks = read_answers(files)
    rows = []
    for pair in pairs:
        suite = pair["suite"]
        sized = (sizes or {}).get(suite, {})
        chosen = [pair["task"]] if "task" in pair else tasks.get(suite, [])
        weightings: dict[str, list[Size]] = {pair.get("task", "average"): [1] * len(chosen)}
        if "task" not in pair and chosen and all(task in sized for task in chosen):
            weightings["weighted_average"] = [sized[task] for task in chosen]
        for name, weights in weightings.items():
            numbers = compare_pair(answers, pair, chosen, weights)
            named = {key: value for key, value in pair.items() if key != "draws"}
            rows.append({**dict.fromkeys([*COLUMNS, "models"], ""), **named, "task": name, **numbers})
    groups: dict[tuple[str, ...], list[dict]] = {}
    for row in rows:
        if row["p"] != "":
            groups.setdefault((row["suite"], row["task"], CORRECTION_GROUPS.get(row["kind"], row["kind"])), []).append(row)
    for group in groups.values():
        _adjust(group)
    write_table(output, [{column: row[column] for column in COLUMNS} for row in rows], COLUMNS)


def _adjust(group: list[dict[str, Any]]) -> None:
    """Add to the rows of one correction group what depends on their number; rows of the same two models count once.

    `p_holm` is the adjusted p, `least_p_holm` what it would be with `least_p` in place of the p of this row alone, and
    `detectable` the minimal detectable difference, empty where the discordant examples are too few to decide anything.
    """
    first: dict[frozenset[Any], dict[str, Any]] = {}
    for row in group:
        if len(row["models"]) == 1:  # no chance in it
            row |= {"low": 0.0, "high": 0.0, "within": 0.0, "p_holm": 1.0, "least_p_holm": 1.0, "same_as": ITSELF}
        elif (known := first.setdefault(row["models"], row)) is not row:
            row["same_as"] = f"{known['method']} against {known['against']}"
    counted = list(first.values())
    measured = [row["p"] for row in counted]
    for index, (row, p) in enumerate(zip(counted, holm(measured), strict=True)):
        least = holm([*measured[:index], row["least_p"], *measured[index + 1 :]])[index]
        smallest = detectable(row["error"], len(counted)) if least < 1 - LEVEL else None
        row |= {"p_holm": p, "least_p_holm": least, "detectable": "" if smallest is None else smallest}
    for row in group:
        if row["models"] in first:
            row |= {key: first[row["models"]][key] for key in ("p_holm", "least_p_holm", "detectable")}


def read_answers(files: Sequence[Path | str]) -> tuple[dict[tuple, Answers], dict[str, list[str]]]:
    """Read the predictions beside score files: answers by (suite, method, task, seed), and the tasks of each suite, sorted."""
    answers: dict[tuple, Answers] = {}
    tasks: dict[str, list[str]] = {}
    for file in files:
        record = read_json(file)
        scores = [row for row in record["scores"] if row["metric"] in MEANS]
        if not scores:
            continue  # a candidate's validation scores are not compared
        predictions = Path(file).with_suffix(".npz")
        if not predictions.exists():
            raise UserError(f"{predictions}: no predictions beside {file}; delete the score file and evaluate again")
        models = _models(record)
        with np.load(predictions) as arrays:
            for row in scores:
                names = [f"{row['task']}.{part}" for part in ("prediction", "label")]
                if any(name not in arrays for name in names):
                    raise UserError(f"{predictions}: expected the arrays {names}, found {sorted(arrays)}; evaluate again")
                key = (row["suite"], row["method"], row["task"], int(row["seed"]))
                prediction, label = (arrays[name] for name in names)
                answers[key] = Answers(prediction, label, models[row["task"]], arrays.get(f"{row['task']}.cluster"))
                if row["task"] not in tasks.setdefault(row["suite"], []):
                    tasks[row["suite"]].append(row["task"])
    return answers, {suite: sorted(names) for suite, names in tasks.items()}


def _models(record: dict[str, Any]) -> dict[str, str]:
    """Return what identifies the model of each task of a file: its digest, or the method where the file does not have it."""
    methods, origin = {row["task"]: row["method"] for row in record["scores"]}, record.get("provenance", {})
    digests = [origin.get("xxh3_128", {}).get(folder, "") for folder in origin.get("checkpoints", [])]
    digests *= len(methods) if len(digests) == 1 else 1  # one model for all tasks, or one for each
    return dict(zip(methods, digests, strict=True)) if len(digests) == len(methods) and all(digests) else methods


def compare_pair(
    answers: Mapping[tuple, Any], pair: dict[str, Any], tasks: Sequence[str], sizes: Sequence[Size], tested: bool = True
) -> dict[str, Any]:
    """Return the numbers of one pair over the seeds that both have in every task; empty without such a seed.

    `sizes` are the weights of the tasks, each a number or one by seed.
    `gained` of the `discordant` examples only the method answers correctly. For the others see `paired` and `compare_methods`.
    """
    others = pair.get("draws", [pair["against"]])
    seeds = [
        {seed for suite, method, name, seed in answers if (suite, method, name) == (pair["suite"], who, task)}
        for who in (pair["method"], *others)
        for task in tasks
    ]
    shared = sorted(set.intersection(*seeds)) if seeds else []
    if not shared:
        return {}
    terms = [(seed, other) for seed in shared for other in others]
    sides: tuple[list[str], ...] = ([], [])  # the models of both methods
    clusters: list[NDArray | None] = []
    right, changed = [], 0  # right[t]: (terms, n_t), correct answers of the method less those of the other
    for task in tasks:
        one = [answers[pair["suite"], pair["method"], task, seed] for seed, _ in terms]
        two = [answers[pair["suite"], other, task, seed] for seed, other in terms]
        if any(not np.array_equal(x.label, one[0].label) for x in [*one, *two]):
            raise UserError(
                f"{pair['suite']}/{task}: {pair['method']!r} and {pair['against']!r} were tested on "
                "different examples; evaluate both again"
            )
        clusters.append(one[0].cluster)
        both = list(zip(one, two, strict=True))
        for side, given in zip(sides, (one, two), strict=True):
            side.extend(each.model for each in given)
        right.append(np.array([x.credit - y.credit for x, y in both]))
        changed += sum(int(np.count_nonzero(x.prediction != y.prediction)) for x, y in both)
    random = np.random.default_rng(zlib.crc32(pair["suite"].encode()))  # same answers, same p, for any names
    by_seed = [each.reshape(len(shared), len(others), -1).sum(axis=1) for each in right]
    weights = np.array([[size_of(size, seed) for size in sizes] for seed in shared], float)
    return {
        **paired_over_seeds(by_seed, len(others), weights, random, clusters, tested)._asdict(),
        "improvement": _improvement(by_seed),
        "discordant": sum(int(np.count_nonzero(each)) for each in right),
        "gained": sum(int(np.count_nonzero(each > 0)) for each in right),
        "changed": changed,
        "n": sum(each.size for each in right),
        "seeds": " ".join(map(str, shared)),
        "models": frozenset(map(tuple, sides)),
        **(_rank(right, len(others), weights) if "draws" in pair else {}),
    }


def _improvement(by_seed: Sequence[NDArray]) -> float:
    """Return the share of tasks and seeds on which the method is above the other, ties as half (Agarwal et al. 2021)."""
    signs = np.sign([each.sum(axis=1) for each in by_seed])
    return float((signs + 1).mean() / 2)


def _rank(right: Sequence[NDArray], draws: int, weights: NDArray) -> dict[str, int]:
    """Return the number of draws and how many of them the method exceeds, by the average over tasks and seeds."""
    shares = (weights / weights.sum(axis=1, keepdims=True)).T[:, :, None]  # (tasks, seeds, 1)
    gaps = [(share * each.mean(axis=1).reshape(-1, draws)).mean(axis=0) for share, each in zip(shares, right, strict=True)]
    return {"draws": draws, "above": int(np.count_nonzero(np.sum(gaps, axis=0) > 1e-12))}


def number(row: Mapping[str, Any], column: str) -> float | None:
    """Read a number of a comparison row, None for an empty cell."""
    return None if row.get(column) in ("", None) else float(row[column])


def verdict(row: dict[str, Any]) -> str:
    """Return the verdict on "the method is above the other" from the adjusted p and the interval.

    A difference that is not significant leaves it undecided. Without a discordant example no difference was observed; with
    so few that no outcome of them would be significant, it cannot be decided.
    """
    p, difference, low, high = (number(row, name) for name in ("p_holm", "difference", "low", "high"))
    if p is None or difference is None or low is None or high is None:
        return NOT_TESTED
    if number(row, "discordant") == 0:
        return SAME
    if p < 1 - LEVEL and (low > 0 or high < 0):
        return HOLDS if difference > 0 else FAILS
    return UNDECIDED if (number(row, "least_p_holm") or 0.0) < 1 - LEVEL else UNDECIDABLE


HOLDS, FAILS, SAME, NOT_TESTED = "holds", "does not hold", "no difference observed", "not tested"
UNDECIDED, UNDECIDABLE = "not decided", "cannot be decided"
VERDICTS = (HOLDS, FAILS, SAME, UNDECIDED, UNDECIDABLE, NOT_TESTED)  # in the order in which they are counted
