"""The choice of a candidate, the trace of a search, and what cross-validation says of the best score."""

import json

import numpy as np
import pytest

from nan_merge.core.errors import UserError
from nan_merge.selection.choice import best, cross_validated, points_of, read_answers, trace

VALUE = "coefficients.constant.value"


def points(**values):
    return {name: {VALUE: value} for name, value in values.items()}


def test_of_equals_the_one_nearest_to_zero_is_chosen():
    assert best({"a": 0.5, "b": 0.6, "c": 0.6}, points(a=0.1, b=0.8, c=-0.4)) == "c"
    assert best({"a": 0.6, "b": 0.6}, points(a=0.2, b=-0.2)) == "b"
    several = {name: {VALUE: value, "preprocess.trim.density": 0.1} for name, value in (("a", 0.9), ("b", 0.1))}
    assert best({"a": 0.6, "b": 0.6}, several) == "a", "of several hyper-parameters the first candidate"


def test_the_trace_keeps_the_best_so_far():
    scores = {"t1": {"x": 0.4, "y": 0.6}, "t2": {"x": 0.1, "y": 0.1}, "t3": {"x": 0.8, "y": 0.8}}
    records = trace(scores, points(t1=1, t2=2, t3=3))
    assert [record["best"] for record in records] == [0.5, 0.5, 0.8]
    assert records[1] == {"candidate": "t2", "point": {VALUE: 2}, "tasks": {"x": 0.1, "y": 0.1}, "average": 0.1, "best": 0.5}


def test_a_pruned_trial_has_no_average_and_is_never_the_best_so_far():
    scores = {"t1": {"x": 0.4, "y": 0.6}, "t2": {"x": 0.9}, "t3": {"x": 0.8, "y": 0.8}}
    records = trace(scores, points(t1=1, t2=2, t3=3), {"t2": {"after": "x"}})
    assert records[1] == {"candidate": "t2", "point": {VALUE: 2}, "tasks": {"x": 0.9}, "pruned": "x", "best": 0.5}
    assert [record["best"] for record in records] == [0.5, 0.5, 0.8]


def test_points_are_read_in_their_order(tmp_path):
    (tmp_path / "point.json").write_text(json.dumps({"number": 1, "point": {VALUE: 7}}))
    assert points_of({"a": {VALUE: 1}, "m-t1": None}, [tmp_path / "point.json"]) == {"a": {VALUE: 1}, "m-t1": {VALUE: 7}}


def answers(rights, size=100, seed=0):
    """Return the answers of one candidate to one task, with a share of them right."""
    label = np.random.default_rng(9).integers(0, 2, size)
    right = np.random.default_rng(seed).random(size) < rights
    return {"task": (np.where(right, label, 1 - label), label)}


def test_the_best_of_many_equal_candidates_is_optimistic_and_cross_validation_says_so():
    """Candidates that all guess: the best average is well above chance, what is cross-validated is chance."""
    gaps, found = [], []
    for draw in range(20):
        all_of_them = {f"t{i}": answers(0.5, seed=100 * draw + i) for i in range(40)}
        top = max((prediction == label).mean() for candidate in all_of_them.values() for prediction, label in candidate.values())
        apart = cross_validated(all_of_them, {"task": "accuracy"}, points(**{name: i for i, name in enumerate(all_of_them)}))
        gaps.append(top - apart["average"])
        found.append(apart["average"])
    assert np.mean(found) == pytest.approx(0.5, abs=0.03)
    assert np.mean(gaps) > 0.07


def test_one_candidate_has_no_optimism():
    only = {"t1": answers(0.7)}
    apart = cross_validated(only, {"task": "accuracy"}, points(t1=1))
    assert apart == {"average": float(np.mean(only["t1"]["task"][0] == only["t1"]["task"][1])), "folds": ["t1"] * 5}


def test_a_candidate_that_is_best_by_far_is_chosen_in_every_fold():
    apart = cross_validated({"t1": answers(0.5), "t2": answers(0.95, seed=1)}, {"task": "accuracy"}, points(t1=1, t2=2))
    assert apart["folds"] == ["t2"] * 5


def test_the_metric_of_a_task_is_taken_of_all_kept_answers():
    label = np.array([0, 1] * 10)
    apart = cross_validated({"t1": {"task": (label.copy(), label)}}, {"task": "matthews"}, points(t1=1))
    assert apart["average"] == pytest.approx(1.0)


def test_fewer_examples_than_folds_are_refused():
    with pytest.raises(UserError, match="task: 3 validation examples are fewer than the 5 folds; enlarge the split"):
        cross_validated({"t1": answers(0.5, size=3)}, {"task": "accuracy"}, points(t1=1))


def test_predictions_are_read_by_task(tmp_path):
    np.savez(tmp_path / "all.npz", **{"x.prediction": np.array([1]), "x.label": np.array([0])})
    np.savez(tmp_path / "more.npz", **{"y.prediction": np.array([2]), "y.label": np.array([2])})
    assert read_answers([tmp_path / "all.npz", tmp_path / "more.npz"]) == {"x": ([1], [0]), "y": ([2], [2])}
