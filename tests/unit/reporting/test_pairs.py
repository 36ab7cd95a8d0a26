"""Every two rows are compared once, with the numbers of the tables; merges are told apart only where a test does so."""

from dataclasses import replace
from itertools import chain, combinations

import numpy as np
import pytest
from fabricated_run import EXAMPLES, quick

from nan_merge.reporting import paired_difference, paired_tests, pairs
from nan_merge.reporting.compare_view import comparison_data, pairs_csv
from nan_merge.reporting.examples import examples_of, read_examples
from nan_merge.reporting.paired_tests import Answers
from nan_merge.reporting.pairs import AVERAGE, NO_ANSWERS, all_pairs, standings
from nan_merge.reporting.study import Score, Study


@pytest.fixture(scope="module")
def run(default_run):
    """The study of the default run, its answers, comparisons and examples."""
    study = default_run.studies[0]
    answers, _ = paired_tests.read_answers(default_run.tests)
    with quick():
        return study, answers, all_pairs(study, answers), read_examples(default_run.examples)["text"]


def test_every_two_rows_are_compared_once_on_the_average_and_on_every_task(run):
    study, _, found, _ = run
    rows, tasks = [method["id"] for method in study.methods], [task["id"] for task in study.tasks]
    expected = {(frozenset(pair), task) for pair in combinations(rows, 2) for task in [AVERAGE, *tasks]}
    assert {(frozenset(pair[:2]), pair.task) for pair in found} == expected and len(found) == len(expected)


def test_a_planned_comparison_has_the_numbers_of_the_tables(run):
    study, _, found, _ = run
    averages = {pair[:2]: pair for pair in found if pair.task == AVERAGE}
    rows = [row for row in study.comparisons if row["task"] == AVERAGE]
    planned = {(row["method"], row["against"]): row for row in reversed(rows)}  # of several kinds the first
    assert len(planned) > 10
    for row in planned.values():
        pair = averages[row["method"], row["against"]]
        numbers = (pair.difference, pair.low, pair.high, pair.p_holm, pair.gained + pair.lost, pair.changed, pair.n)
        assert numbers == tuple(float(row[key]) for key in ("difference", "low", "high", "p_holm", "discordant", "changed", "n"))
    others = averages.keys() - planned.keys()
    assert others and all(averages[key].p_holm is None for key in others)


def test_a_difference_on_a_task_is_that_of_the_scores(run):
    study, _, found, _ = run
    values = {(score.method, score.task): score.value for score in study.reported()}
    compared = [pair for pair in found if (pair.against, pair.task) in values]
    assert len(compared) > 100
    for pair in compared:
        assert pair.difference == pytest.approx(values[pair.method, pair.task] - values[pair.against, pair.task])
        assert pair.gained - pair.lost == pytest.approx(pair.difference * pair.n) and pair.low <= pair.difference <= pair.high


def test_of_very_many_rows_only_planned_comparisons_are_made(run, monkeypatch):
    study, answers, _, _ = run
    monkeypatch.setattr(pairs, "MOST_PAIRS", 10)
    planned = {(row["method"], row["against"]) for row in study.comparisons}
    assert {pair[:2] for pair in all_pairs(study, answers)} == planned


def answered(share, n=400, first=0):
    """Answers of which a share is right, those from `first` on."""
    wrong = np.ones(n, int)
    wrong[(np.arange(round(share * n)) + first) % n] = 0
    return wrong


def toy(methods, metric="accuracy"):
    """A study of one task and its answers; `methods` have predictions for the right answer 0."""
    suite = {"id": "toy", "tasks": [{"id": "t", "metric": metric}], "seeds": [0]}
    scores = [Score("toy", name, "t", metric, float((given == 0).mean()), len(given), 0) for name, given in methods.items()]
    answers = {("toy", name, "t", 0): Answers(given, np.zeros(len(given), int), name) for name, given in methods.items()}
    return Study(suite, [{"id": name, "group": "host"} for name in methods], scores), answers


def test_the_best_is_told_apart_only_from_what_a_test_tells_apart():
    study, answers = toy({"best": answered(0.8), "near": answered(0.79, first=9), "far": answered(0.5)})
    standing = standings(study, answers)["t"]
    assert (standing.best, standing.alike, standing.gap) == (["best"], ["near"], "")


def test_two_equal_merges_are_both_best():
    study, answers = toy({"one": answered(0.8), "other": answered(0.8, first=50), "far": answered(0.3)})
    assert standings(study, answers)["t"].best == ["one", "other"] and standings(study, answers)["t"].alike == []


@pytest.mark.parametrize("metric", ["matthews", "f1_accuracy"])
def test_where_answers_are_not_right_or_wrong_only_the_best_is_named(metric):
    study, answers = toy({"one": answered(0.8), "other": answered(0.79)}, metric)
    assert standings(study, answers)["t"].best == ["one"]
    assert standings(study, answers)["t"].gap.endswith("was not tested: " + NO_ANSWERS + ".")


def test_where_no_pair_of_so_many_could_be_significant_the_sentence_has_the_numbers(monkeypatch):
    monkeypatch.setattr(paired_difference, "FLIPS", 99)
    study, answers = toy({f"m{number}": answered(0.8, first=number) for number in range(4)})
    assert "the 6 pairs of merges, which 99 sign flips are too few for" in standings(study, answers)["t"].gap


def test_a_reference_is_neither_best_nor_alike():
    study, answers = toy({"merge": answered(0.7), "individual": answered(0.9)})
    study.methods[1]["group"] = "reference"
    standing = standings(study, answers)["t"]
    assert (standing.best, standing.alike) == (["merge"], [])


def test_the_examples_are_those_on_which_two_rows_differ(run):
    study, answers, _, given = run
    records = examples_of(study, answers, given, 10**6)
    assert [record["task"] for record in records] == [task["id"] for task in study.tasks]
    for record in records:
        predicted = np.array(list(record["answers"].values()))
        assert record["shown"] == record["differing"] == len(record["texts"]) == predicted.shape[1] <= EXAMPLES
        assert (predicted != predicted[0]).any(axis=0).all()
        assert record["texts"] == [given["texts"][record["task"]][index] for index in record["index"]]


def test_images_that_are_not_at_hand_are_left_out(run):
    study, answers, _, _ = run
    images = {task["id"]: [None if i % 2 else f"data:{i}" for i in range(EXAMPLES)] for task in study.tasks}
    for record in examples_of(study, answers, {"images": images}, 10**6):
        assert 0 < record["shown"] < record["differing"] and "texts" not in record
        assert record["images"] == [f"data:{index}" for index in record["index"]]
        assert [index % 2 for index in record["index"]] == [0] * record["shown"]


def test_examples_stay_within_their_room_and_say_so(run):
    study, answers, _, given = run
    for record in examples_of(study, answers, given, 3000):
        assert 0 < record["shown"] == len(record["texts"]) < record["differing"]
        assert sum(map(len, record["texts"])) < 1000


@pytest.mark.parametrize("joint", [False, True])
def test_answers_among_the_classes_of_all_tasks_are_named_by_these(run, joint):
    study, answers, _, given = run
    own = {task["id"]: [f"{task['id']} {k}" for k in range(3)] for task in study.tasks}
    datasets = {task: {"classes": names} for task, names in own.items()}
    joined = replace(study, suite={**study.suite, "joint": joint}, datasets=datasets)
    for record in examples_of(joined, answers, given, 10**6):
        assert record["classes"] == ([*chain(*own.values())] if joint else own[record["task"]])


def test_texts_of_other_examples_are_not_shown(run):
    study, answers, _, given = run
    shorter = {task: lines[1:] for task, lines in given["texts"].items()}
    assert examples_of(study, answers, {"texts": shorter}, 10**6) == []


def test_the_page_has_every_pair_as_text_and_the_file_every_number(run):
    study, _, found, _ = run
    data = comparison_data(study, found, [])
    assert sum(map(len, data["pairs"].values())) == len(found) == pairs_csv(study, found).count("\n") - 1
    one, other = data["start"]
    assert study.methods[one]["host"] == study.methods[other]["id"]
    assert study.methods[one]["group"] == "nan" and data["pairs"][f"{one},{other}"][0][6] != "0"
