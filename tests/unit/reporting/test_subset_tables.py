"""Random subsets of the experts: averages by the number of experts, their intervals, and differences to the host."""

import csv
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import t

from nan_merge.core.errors import UserError
from nan_merge.reporting.figures import draw_figure
from nan_merge.reporting.paired_tests import Answers
from nan_merge.reporting.study import Study
from nan_merge.reporting.subset_data import averages, limits, points
from nan_merge.reporting.subset_figures import subsets as figure
from nan_merge.reporting.tables import render_table

RECORD = {"id": "subsets", "kind": "subsets", "title": "Subsets", "inputs": []}
TASKS = list("abcd")
METHODS = [
    {"id": "pretrained", "group": "reference"},
    {"id": "individual", "group": "reference"},
    {"id": "ties", "label": "TIES", "group": "host"},
    {"id": "ties+nan", "label": "TIES + NAN", "group": "nan", "host": "ties"},
]
SUBSETS = {"2-0": ["a", "b"], "2-1": ["c", "d"], "2-2": ["a", "d"], "4-0": TASKS}


def made(levels, subsets=SUBSETS, size=200, seeds=(0,), cluster=None):
    """A study with these accuracies by method, or by method and subset, drawn for the right answer 0."""
    random, answers = np.random.default_rng(0), {}

    def drawn(level):
        wrong = (random.random(size) > level).astype(int)
        wrong = wrong if cluster is None else wrong[cluster]
        return Answers(wrong, np.zeros(len(wrong), int), "", cluster)

    for method in (each["id"] for each in METHODS):
        of_subsets = (
            {} if method in ("pretrained", "individual") else {f"toy/{name}": of for name, of in subsets.items() if len(of) < 4}
        )
        for place, tasks in {"toy": TASKS, **of_subsets}.items():
            level = levels.get((method, place.partition("/")[2]), levels[method])
            answers |= {(place, method, task, seed): drawn(level) for task in tasks for seed in seeds}
    suite = {"id": "toy", "tasks": [{"id": task} for task in TASKS], "seeds": [*seeds], "subsets": subsets}
    return Study(suite, METHODS, answers=answers)


LEVELS = {"pretrained": 0.3, "individual": 0.9, "ties": 0.6, "ties+nan": 0.7}


def by_method(study):
    return {(point.method["id"], point.size): point for point in points(study)}


def right(study, place, method, task, seed=0):
    return float((study.answers[place, method, task, seed].prediction == 0).mean())


def test_averages_are_those_over_the_tasks_of_each_subset():
    study = made(LEVELS)
    found = by_method(study)
    assert {*found} == {(method, size) for method in ("pretrained", "ties", "ties+nan") for size in (2, 4)}
    pairs = [(f"toy/{name}", task) for name, tasks in SUBSETS.items() if len(tasks) == 2 for task in tasks]
    ties = [right(study, place, "ties", task) for place, task in pairs]
    best = [right(study, "toy", "individual", task) for _, task in pairs]
    assert found["ties", 2].accuracy.value == pytest.approx(np.mean(ties))
    assert found["ties", 2].normalised.value == pytest.approx(np.mean(np.divide(ties, best)))
    base = [right(study, "toy", "pretrained", task) for _, task in pairs]
    assert found["pretrained", 2].accuracy.value == pytest.approx(np.mean(base)), "one model for every subset"


def test_the_merges_of_all_experts_are_those_of_the_suite():
    study = made(LEVELS)
    whole = by_method(study)["ties", 4]
    assert whole.accuracy.value == pytest.approx(np.mean([right(study, "toy", "ties", task) for task in TASKS]))
    assert whole.complete and whole.subsets == 1


def test_a_difference_is_paired_with_the_host_on_the_same_subsets():
    study = made(LEVELS)
    found = by_method(study)
    gap = found["ties+nan", 2].difference
    assert gap.value == pytest.approx(found["ties+nan", 2].accuracy.value - found["ties", 2].accuracy.value)
    assert gap.low < gap.value < gap.high and found["ties", 2].difference is None
    twin = {(place, "ties+nan", *rest): each for (place, name, *rest), each in study.answers.items() if name == "ties"}
    study.answers = {**study.answers, **twin}
    same = by_method(study)["ties+nan", 2].difference
    assert (same.value, same.low, same.high) == (0, 0, 0) and by_method(study)["ties", 2].accuracy.high > 0.6


def test_subsets_that_differ_make_intervals_wider_and_all_subsets_of_a_size_are_no_sample():
    widely = {**LEVELS, ("ties", "2-0"): 0.4, ("ties", "2-1"): 0.8}
    alike, varied = (by_method(made(levels))["ties", 2].normalised for levels in (LEVELS, widely))
    assert varied.high - varied.low > 3 * (alike.high - alike.low)
    every = {f"2-{number}": list(chosen) for number, chosen in enumerate(combinations(TASKS, 2))}
    levels = {**LEVELS, **{("ties", f"2-{number}"): 0.3 + number / 10 for number in range(6)}}
    whole = by_method(made(levels, every))["ties", 2]
    assert whole.complete and whole.accuracy.high - whole.accuracy.low < 0.08


def test_the_spread_over_subsets_is_the_standard_error_of_their_mean():
    values, random = np.array([0.2, 0.5, 0.6, 0.9])[:, None], np.random.default_rng(0)
    drawn = (random.multinomial(3, np.full(4, 1 / 4), 200_000) / 3) @ values[:, 0]
    found = limits(values, drawn, complete=False)
    half = t.ppf(0.975, 3) * np.std(values, ddof=1) / 2
    assert (found.low, found.high) == pytest.approx((0.55 - half, 0.55 + half), rel=0.02)


def test_the_spread_over_examples_is_the_standard_error_of_an_accuracy():
    study = made(LEVELS, size=400)
    random = np.random.default_rng(0)
    drawn = np.concatenate([averages(study, METHODS[2:3], {"toy/2-0": ["a", "b"]}, random) for _ in range(8)])[..., 0]
    p = np.array([right(study, "toy/2-0", "ties", task) for task in "ab"])
    assert drawn.std() == pytest.approx(np.sum(p * (1 - p) / 400) ** 0.5 / 2, rel=0.06)
    grouped = made(LEVELS, size=40, cluster=np.repeat(np.arange(40), 10))
    drawn = np.concatenate([averages(grouped, METHODS[2:3], {"toy/2-0": ["a", "b"]}, random) for _ in range(8)])[..., 0]
    p = np.array([right(grouped, "toy/2-0", "ties", task) for task in "ab"])
    assert drawn.std() == pytest.approx(np.sum(p * (1 - p) / 40) ** 0.5 / 2, rel=0.06), "clusters are drawn as wholes"


def test_answers_to_other_examples_are_refused():
    study = made(LEVELS)
    study.answers["toy/2-1", "ties", "c", 0] = Answers(np.ones(200, int), np.ones(200, int), "")
    with pytest.raises(UserError, match="toy/2-1: 'ties' and 'individual' were tested on different examples of 'c'; score both"):
        points(study)


def test_seeds_are_crossed_with_subsets():
    found = by_method(made(LEVELS, seeds=(0, 1, 2)))["ties", 2]
    study = made(LEVELS, seeds=(0, 1, 2))
    by_hand = [
        right(study, f"toy/{name}", "ties", task, seed)
        for name in ("2-0", "2-1", "2-2")
        for task in SUBSETS[name]
        for seed in range(3)
    ]
    assert found.accuracy.value == pytest.approx(np.mean(by_hand))


def test_the_table_has_a_row_a_method_and_size_and_says_what_was_left_out(tmp_path):
    study = made(LEVELS)
    study.methods = [*METHODS, *({"id": name.lower(), "label": name, "group": "host"} for name in ("EMR", "Tuned"))]
    study.answers |= {
        ("toy", "tuned", *rest): each for (place, name, *rest), each in study.answers.items() if (place, name) == ("toy", "ties")
    }
    study.answers = {key: each for key, each in study.answers.items() if key[:2] != ("toy/2-1", "ties+nan")}
    render_table(study, RECORD, tmp_path / "subsets")
    text = (tmp_path / "subsets.md").read_text()
    assert "Not merged over subsets" in text and "one of several draws: EMR, Tuned." in text
    with open(tmp_path / "subsets.csv", newline="") as lines:
        rows = {(row["method"], row["experts"]): row for row in csv.DictReader(lines)}
    assert ("ties+nan", "4") in rows and ("ties+nan", "2") not in rows, "a method without a subset has no row of that size"
    assert rows["ties", "2"]["host"] == "" and float(rows["ties+nan", "4"]["difference_low"]) < 0.2
    assert "all 1" in text and "TIES + NAN" in text
    render_table(made(LEVELS), RECORD, tmp_path / "whole")
    assert "Not merged" not in (tmp_path / "whole.md").read_text() and "\n-\n" not in (tmp_path / "whole.md").read_text() + "\n"


def test_the_figure_shows_a_line_a_method_and_the_differences_beside():
    drawn, caption = figure(made(LEVELS), RECORD)
    left, right = drawn.axes
    assert left.get_legend_handles_labels()[1] == ["TIES", "TIES + NAN"], "references would hide the merges"
    assert [len(each.get_children()) for each in right.containers] and len(right.containers) == 1
    heights = left.containers[0].lines[0].get_ydata()
    assert heights == pytest.approx([100 * by_method(made(LEVELS))["ties", size].normalised.value for size in (2, 4)])
    assert "same random subsets" in caption


def test_without_subsets_table_and_figure_say_so(tmp_path):
    study = made(LEVELS, subsets={})
    render_table(study, RECORD, tmp_path / "subsets")
    assert "no measurements of this kind" in (tmp_path / "subsets.md").read_text()
    draw_figure(study, RECORD, tmp_path / "subsets")
    assert "No subsets of the experts" in (tmp_path / "subsets.svg").read_text()
