"""Validation scores of candidates, and the rule by which the scoring of a trial is stopped."""

import json
import random
from statistics import fmean

import numpy as np
import pytest

from nan_merge.catalogue.tune import SCHEMA
from nan_merge.methods.search_space import Dimension, Search
from nan_merge.selection.sampling import Outcome, propose
from nan_merge.selection.scores import WARM_UP, complete_trials, cost, pruned_trials, stopped, validation_scores
from scripts import describe_search, propose_trial, select_coefficients

TASKS = ("x", "y", "z")
COMPLETE = [{"x": 0.1 * trial, "y": 0.5, "z": 1.0 - 0.1 * trial} for trial in range(1, 6)]  # medians: 0.3, 0.4, 0.5


def test_a_trial_below_the_median_over_the_same_tasks_is_stopped():
    found = stopped({"x": 0.29}, COMPLETE)
    assert found == {"after": "x", "average": 0.29, "median": pytest.approx(0.3), "trials": 5}
    assert stopped({"x": 0.5, "y": 0.29}, COMPLETE)["after"] == "y", "0.395 is below 0.4"
    assert not stopped({"x": 0.5, "y": 0.31}, COMPLETE), "a bad task does not stop a trial whose average is good"


def test_a_trial_at_the_median_goes_on():
    assert not stopped({"x": COMPLETE[2]["x"]}, COMPLETE)


def test_no_trial_is_stopped_before_its_first_task_or_without_enough_complete_ones():
    assert not stopped({}, COMPLETE)
    assert not stopped({"x": 0.0}, COMPLETE[: WARM_UP - 1])
    assert f"of which there must be {WARM_UP}" in SCHEMA["properties"]["prune"]["description"]


def written(folder, name, group, scores, pruned=None):
    folder.mkdir(exist_ok=True)
    file = folder / f"{name}-{group}.json"
    rows = [{"method": name, "task": task, "value": value, "n": 10} for task, value in scores.items()]
    file.write_text(json.dumps({"scores": rows, **({"pruned": {"method": name, **pruned}} if pruned else {})}))
    return file


@pytest.fixture
def files(tmp_path):
    """Two trials on two groups of tasks; the second was pruned after the first task."""
    return [
        written(tmp_path, "m-t2", "one", {"x": 0.7, "y": 0.9}),
        written(tmp_path, "m-t2", "two", {"z": 0.5}),
        written(tmp_path, "m-t1", "one", {"x": 0.1}, {"after": "x", "unscored": {"y": 10}}),
        written(tmp_path, "m-t1", "two", {}, {"after": "x", "unscored": {"z": 10}}),
    ]


def test_scores_are_read_in_the_order_of_the_files_and_a_pruned_trial_lacks_tasks(files):
    assert validation_scores(files) == {"m-t2": {"x": 0.7, "y": 0.9, "z": 0.5}, "m-t1": {"x": 0.1}}
    assert list(validation_scores(files)) == ["m-t2", "m-t1"]
    assert complete_trials(files) == {"m-t2": {"x": 0.7, "y": 0.9, "z": 0.5}}


def test_what_was_not_scored_is_counted_over_all_groups(files):
    assert pruned_trials(files) == {"m-t1": {"method": "m-t1", "after": "x", "unscored": {"y": 10, "z": 10}}}
    assert cost(files) == {"pruned": 1, "examples_scored": 40, "examples": 60}
    assert cost(files[:2]) == {"pruned": 0, "examples_scored": 30, "examples": 30}


PATH = "coefficients.constant.value"
TPE = Search("tpe", (Dimension(PATH, (), 0.0, 2.0, start=0.3),), batch=2)


@pytest.fixture
def ran(files, monkeypatch):
    """Return a function that runs a script on the two trials, of which one was pruned, and returns what it writes."""
    folder = files[0].parent
    trials, moved = [], []
    for name, file in zip(("m-t2", "m-t2", "m-t1", "m-t1"), files, strict=True):
        (folder / name).mkdir(exist_ok=True)
        moved.append(file.rename(folder / name / file.name))
        label = np.arange(10) % 2
        tasks = [row["task"] for row in json.loads(moved[-1].read_text())["scores"]]
        arrays = {f"{task}.{part}": label for task in tasks for part in ("prediction", "label")}
        np.savez(moved[-1].with_suffix(".npz"), **arrays)
    for name, point in zip(("m-t2", "m-t1"), propose(TPE, 2, (), []), strict=True):
        trials.append(folder / f"{name}.json")
        trials[-1].write_text(json.dumps({"point": point}))

    def run(script, *words, **spec):
        given = ["--scores", *moved, "--trials", *trials, "--output", folder / "out.json", "--spec", json.dumps(spec), *words]
        monkeypatch.setattr("sys.argv", [script.__name__, *map(str, given)])
        script.main()
        return json.loads((folder / "out.json").read_text())

    return run


def test_a_pruned_trial_is_in_the_trace_and_neither_chosen_nor_cross_validated(ran):
    points, metrics = {"m-t2": None, "m-t1": None}, dict.fromkeys(TASKS, "accuracy")
    chosen = ran(select_coefficients, points=points, by_value=False)
    assert chosen == {"candidate": "m-t2", "point": {PATH: 0.3}, "averages": {"m-t2": pytest.approx(0.7)}}
    about = ["--suite", "s", "--method", "m", "--seed", "0"]
    search = ran(describe_search, *about, points=points, search="tpe", prune=True, metrics=metrics)
    assert search["cost"] == {"pruned": 1, "examples_scored": 40, "examples": 60} and search["trials"] == 2
    assert [trial.get("pruned") for trial in search["trace"]] == [None, "x"] and "average" not in search["trace"][1]
    assert search["chosen"] == "m-t2" and search["folds"]["chosen"] == ["m-t2"] * 5
    assert "cost" not in ran(describe_search, *about, points=points, search="tpe", prune=False, metrics=metrics)


def test_a_search_is_told_which_trials_were_pruned(ran, monkeypatch):
    told = []
    monkeypatch.setattr(propose_trial, "propose", lambda *given: told.extend(given[3]) or propose(*given))
    assert ran(propose_trial, search=TPE.record(), number=3, experts=[])["number"] == 3
    assert told == [Outcome(pytest.approx(0.7)), Outcome(0.1, pruned=1)]


GOOD = 0.7


def quality(value, task):
    """Return the score of a task: the nearer to GOOD the better, and each task with an offset of its own."""
    return max(0.0, 0.9 - abs(value - GOOD) - 0.05 * TASKS.index(task))


def searched(search, budget, order=lambda numbers: numbers):
    """Run a search with rounds; the trials of each are scored in the given order. Return points and scores by number."""
    points, scores, pruned = {}, {}, set()
    for first in range(1, budget + 1, search.batch):
        for number in order(list(range(first, min(first + search.batch, budget + 1)))):
            told = [Outcome(fmean(scores[n].values()), len(scores[n]) * (n in pruned)) for n in search.earlier(number)]
            points[number] = propose(search, number, (), told)[-1]
            before = search.rounds_before(number) if search.prune else ()
            complete, so_far = [scores[each] for each in before if each not in pruned], {}
            for task in TASKS:
                if stopped(so_far, complete):
                    pruned.add(number)
                    break
                so_far[task] = quality(points[number][PATH], task)
            scores[number] = so_far
    return points, scores, pruned


def chosen(points, scores, pruned):
    return points[max(sorted(scores.keys() - pruned), key=lambda number: fmean(scores[number].values()))]


@pytest.mark.parametrize("kind", ["sobol", "tpe"])
def test_pruning_saves_tasks_and_the_result_does_not_depend_on_the_order_within_a_round(kind):
    space = (Dimension(PATH, (), 0.0, 2.0, start=0.3),)
    plain = searched(Search(kind, space, batch=6), 30)
    pruning = Search(kind, space, batch=6, prune=True)
    first = searched(pruning, 30)
    assert first == searched(pruning, 30, lambda numbers: random.Random(3).sample(numbers, len(numbers)))
    points, scores, pruned = first
    assert 1 not in pruned and min(pruned) > 6, "no trial of the first round is pruned"
    assert sum(map(len, scores.values())) < 0.8 * sum(map(len, plain[1].values())) == 0.8 * 30 * len(TASKS)
    assert abs(chosen(*first)[PATH] - GOOD) < 0.05 and abs(chosen(*plain)[PATH] - GOOD) < 0.05
    if kind == "sobol":
        assert points == plain[0] and chosen(*first) == chosen(*plain)
        assert all(scores[number] == plain[1][number] for number in scores.keys() - pruned)
