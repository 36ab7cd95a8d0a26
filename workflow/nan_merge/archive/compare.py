"""Two archives side by side: settings, scores, answers to the same examples, and how the other files differ.

An archive of tables has none of these; `tabled` and `digests` compare what it has, with another one or with a whole archive.
"""

from __future__ import annotations

import csv
import io
import re
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from nan_merge.archive.container import WHOLE, Archive, as_written
from nan_merge.archive.differences import difference
from nan_merge.archive.pages import MAIN
from nan_merge.archive.predictions import Place, read, tasks_of
from nan_merge.core.errors import UserError
from nan_merge.core.names import first_of
from nan_merge.core.text import parse_json, parse_yaml
from nan_merge.data.metrics import MEANS, credit
from nan_merge.reporting.paired_difference import paired_over_seeds

CONFIG = "results/run_config.yaml"
SCORES = "results/scores/"
PREDICTIONS = re.compile(rf"{SCORES}.+\.npz")
OTHERS = ("results/coefficients/", "results/measures/", "results/selected/", "results/trials/", "results/searches/",
          "results/premise/", "results/digests/")  # fmt: skip

Method = tuple[str, str]  # suite and method
TaskAndSeed = tuple[str, int]


class Answers(NamedTuple):
    """The answers to the examples of a task (N,), the labels, and the cluster of each where examples come in groups."""

    prediction: np.ndarray
    label: np.ndarray
    cluster: np.ndarray | None

    @property
    def credit(self) -> np.ndarray:
        """What each answer adds to the metric of the task, (N,)."""
        return credit(self.prediction, self.label)


class Average(NamedTuple):
    """The average accuracy of a method in both runs, as fractions, over the tasks that both have.

    Where both have the same seeds and examples: B less A with 95 % limits and p of the paired test, and how many predictions of
    all changed.
    """

    suite: str
    method: str
    tasks: int
    a: float
    b: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    changed: int | None = None
    n: int | None = None


def refuse_incomplete(archive: Archive) -> None:
    """Raise UserError for an archive that has not the files of its manifest, or others."""
    found = {"missing": archive.missing, "not listed in it": archive.unlisted}
    if faults := [f"{what}: {first_of(names)}" for what, names in found.items() if names]:
        raise UserError(
            f"{archive.file}: has not the files of its manifest: {'; '.join(faults)}; run nan-merge verify, or get the archive"
            " again"
        )


def settings(a: Archive, b: Archive) -> list[tuple[str, Any, Any]]:
    """Return the settings that differ, by dotted key, with both values."""
    one, two = _config(a), _config(b)
    return [(key, one.get(key), two.get(key)) for key in sorted({*one, *two}) if one.get(key) != two.get(key)]


def _config(archive: Archive) -> dict[str, Any]:
    where = f"{archive.file}: {CONFIG}"
    with as_written(where):
        config = parse_yaml(archive.read(CONFIG).decode(), where)
        if not isinstance(config, Mapping) or not config:
            raise TypeError("expected a mapping of settings")
    return dict(_leaves(config))


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def scores(archive: Archive) -> dict[tuple[str, str, str, str, int], float]:
    """Return the test scores by suite, method, task, metric and seed."""
    found = {}
    for name in archive.files:
        if name.startswith(SCORES) and name.endswith(".json"):
            with as_written(where := f"{archive.file}: {name}"):
                for row in parse_json(archive.read(name), where)["scores"]:
                    suite, method, task, metric = (str(row[key]) for key in ("suite", "method", "task", "metric"))
                    found[suite, method, task, metric, int(row["seed"])] = float(row["value"])
    return found


def averages(a: Archive, b: Archive) -> list[Average]:
    """Return the methods of both runs with their average accuracies, in the order of suites and methods."""
    (one, answers), (two, others) = ((_accuracies(scores(archive)), _answers(archive)) for archive in (a, b))
    shared = [key for key in sorted(one) if key in two and {task for task, _ in one[key]} & {task for task, _ in two[key]}]
    return [_average(key, one[key], two[key], answers.get(key, {}), others.get(key, {})) for key in shared]


def _accuracies(found: Mapping[tuple[str, str, str, str, int], float]) -> dict[Method, dict[TaskAndSeed, float]]:
    grouped: dict[Method, dict[TaskAndSeed, float]] = {}
    for (suite, method, task, metric, seed), value in found.items():
        if metric in MEANS:
            grouped.setdefault((suite, method), {})[task, seed] = value
    return grouped


def _answers(archive: Archive) -> dict[Method, dict[TaskAndSeed, Answers]]:
    grouped: dict[Method, dict[TaskAndSeed, Answers]] = {}
    for name in archive.files:
        if name.startswith(SCORES) and (place := Place.of(name)):
            arrays = read(where := f"{archive.file}: {name}", io.BytesIO(archive.read(name)))
            with as_written(where):
                for task in tasks_of(arrays):
                    answers = Answers(arrays[f"{task}.prediction"], arrays[f"{task}.label"], arrays.get(f"{task}.cluster"))
                    shapes = {each.shape for each in (*answers, answers.credit) if each is not None}
                    if len(shapes) > 1 or answers.label.ndim != 1:
                        raise ValueError(f"arrays of {task} with the shapes {', '.join(map(str, sorted(shapes)))}")
                    grouped.setdefault((place.suite, place.method), {})[task, int(place.seed.removeprefix("seed"))] = answers
    return grouped


def _average(
    key: Method,
    one: Mapping[TaskAndSeed, float],
    two: Mapping[TaskAndSeed, float],
    first: Mapping[TaskAndSeed, Answers],
    second: Mapping[TaskAndSeed, Answers],
) -> Average:
    """Average both over the tasks that both have, each over its own seeds; pair them where seeds and examples are the same."""
    tasks = sorted({task for task, _ in one} & {task for task, _ in two})
    a, b = (fmean(value for (task, _), value in each.items() if task in tasks) for each in (one, two))
    result = Average(*key, len(tasks), a, b)
    seeds = sorted({seed for _, seed in one})
    keys = [(task, seed) for task in tasks for seed in seeds]
    same = {seed for _, seed in two} == {*seeds} and all(k in first and k in second for k in keys)
    if not same or not all(np.array_equal(first[k].label, second[k].label) for k in keys):
        return result
    if any(len(first[k].label) != len(first[k[0], seeds[0]].label) for k in keys):
        return result
    right = [np.array([second[task, s].credit - first[task, s].credit for s in seeds]) for task in tasks]
    clusters = [first[task, seeds[0]].cluster for task in tasks]
    found = paired_over_seeds(right, 1, [1.0] * len(tasks), np.random.default_rng(zlib.crc32(key[0].encode())), clusters)
    changed = sum(int(np.count_nonzero(first[k].prediction != second[k].prediction)) for k in keys)
    examples = sum(len(first[k].label) for k in keys)
    return result._replace(low=found.low, high=found.high, p=found.p, changed=changed, n=examples)


def others(a: Archive, b: Archive) -> list[tuple[str, str]]:
    """Return the coefficients, norms and other measurements that differ, each with how."""
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in sorted({*a.files, *b.files}):
            if name.startswith(OTHERS):
                if name not in a.files or name not in b.files:
                    found.append((name, f"only in {'A' if name in a.files else 'B'}"))
                    continue
                kept, made = (Path(scratch) / f"{side}{Path(name).suffix}" for side in "ab")
                kept.write_bytes(a.read(name))
                made.write_bytes(b.read(name))
                if (how := difference(kept, made)) is not None:
                    found.append((name, how))
    return found


def tabled(a: Archive, b: Archive) -> list[Average]:
    """Return the rows of the main tables of both, averaged over the tasks that both have; nothing is paired."""
    one, two = _rows(a), _rows(b)
    found = []
    for key in sorted({*one} & {*two}):
        if tasks := {*one[key]} & {*two[key]}:
            first, second = (fmean(side[key][task] for task in sorted(tasks)) for side in (one, two))
            found.append(Average(*key, len(tasks), first, second))
    return found


def _rows(archive: Archive) -> dict[Method, dict[str, float]]:
    """Return the values of every row by task: means over seeds, of draws over these."""
    found = {}
    for name in filter(MAIN.fullmatch, archive.files):
        with as_written(f"{archive.file}: {name}"):
            for row in csv.DictReader(io.StringIO(archive.read(name).decode())):
                columns = [key.removesuffix("_percent") for key in row if key.endswith("_percent") and row[key]]
                tasks = [column for column in columns if not column.endswith("average")]
                found[row["suite"], row["method"]] = {task: float(row[task]) for task in tasks}
    return found


def digests(a: Archive, b: Archive) -> list[tuple[str, str]]:
    """Return the predictions and measurements of both runs of which the manifests have different digests, each with how."""
    one, two = _digests(a), _digests(b)
    return [(name, "other bytes") for name in sorted(one.keys() & two.keys()) if one[name] != two[name]]


def _digests(archive: Archive) -> dict[str, str]:
    """Return the SHA-256 of the predictions and measurements of a run by name."""
    files = archive.files
    if WHOLE in files:
        with as_written(where := f"{archive.file}: {WHOLE}"):
            files = parse_json(archive.read(WHOLE).decode(), where)["files"]
            files = {name: {"sha256": str(entry["sha256"])} for name, entry in files.items()}
    return {name: entry["sha256"] for name, entry in files.items() if name.startswith(OTHERS) or PREDICTIONS.fullmatch(name)}
