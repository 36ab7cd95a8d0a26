"""The table of ranks: merges that differ clearly have one rank each, and those that do not share their ranks."""

from dataclasses import replace

import numpy as np
import pytest

from nan_merge.reporting.paired_tests import Answers
from nan_merge.reporting.ranks import improvement, iqm, ranks, resampled
from nan_merge.reporting.study import Score, Study
from nan_merge.reporting.tables import render_table

RECORD = {"id": "ranks", "kind": "ranks", "title": "Ranks", "inputs": []}
TASKS = ["a", "b"]


def made(levels, size=400, seeds=(0,), deviation=0.0, cluster=None):
    """A study of merges with these accuracies, which vary over seeds, and its predictions for the right answer 0."""
    random, scores, answers = np.random.default_rng(0), [], {}
    for name, level in levels.items():
        for seed in seeds:
            shift = deviation * random.standard_normal()
            for task in TASKS:
                wrong = (random.random(size) > level + shift).astype(int)
                wrong = wrong if cluster is None else wrong[cluster]
                answers["toy", name, task, seed] = Answers(wrong, np.zeros(size, int), f"{name} {seed}", cluster)
                scores.append(Score("toy", name, task, "accuracy", float((wrong == 0).mean()), size, seed))
    suite = {"id": "toy", "tasks": [{"id": task} for task in TASKS], "seeds": [*seeds]}
    return Study(suite, [{"id": name, "group": "host"} for name in levels], scores, answers=answers)


def rows(study):
    return {row["method"]: row for row in ranks(study, RECORD).records}


def test_clear_differences_have_one_rank_each_and_small_ones_share_theirs():
    found = rows(made({"low": 0.3, "good": 0.8, "as_good": 0.8, "middle": 0.55}))
    assert [row["method"] for row in found.values()][2:] == ["middle", "low"], "the best comes first"
    assert {name: (row["rank_low"], row["rank_high"]) for name, row in found.items() if row["rank"] > 2} == {
        "middle": (3, 3), "low": (4, 4)}  # fmt: skip
    assert all((found[name]["rank_low"], found[name]["rank_high"]) == (1, 2) for name in ("good", "as_good"))
    assert sorted(row["best"] for row in found.values()) == ["", "", "best", "≈"]
    assert found["low"]["improvement"] == 0 and found["middle"]["improvement"] == pytest.approx(1 / 3)


def test_two_merges_with_the_same_answers_share_a_rank():
    study = made({"one": 0.7, "two": 0.4})
    study.methods.append({"id": "twin", "group": "host"})
    study.scores += [score._replace(method="twin") for score in study.scores if score.method == "one"]
    study.answers |= {(suite, "twin", *key): each for (suite, name, *key), each in study.answers.items() if name == "one"}
    found = rows(study)
    assert found["one"]["rank"] == found["twin"]["rank"] == found["twin"]["rank_low"] == found["twin"]["rank_high"] == 1.5


def test_intervals_hold_for_other_seeds_where_there_are_several():
    levels, seeds = {"one": 0.60, "two": 0.64}, (0, 1, 2, 3, 4)
    steady, varied = (rows(made(levels, 2000, seeds, deviation)) for deviation in (0.0, 0.08))
    widths = [found["two"]["iqm_high"] - found["two"]["iqm_low"] for found in (steady, varied)]
    assert (steady["two"]["rank_low"], steady["two"]["rank_high"]) == (1, 1) and varied["two"]["rank_high"] == 2
    assert widths[1] > 2 * widths[0]


def test_the_spread_of_a_bootstrap_is_the_standard_error():
    right = np.random.default_rng(3).random((1, 1, 500)) < 0.7
    alone = [(right.astype(np.float32), np.arange(500))]
    assert resampled(alone, np.random.default_rng(0)).std() == pytest.approx((0.7 * 0.3 / 500) ** 0.5, rel=0.1)
    grouped = [(np.repeat(right[:, :, :50], 10, axis=2).astype(np.float32), np.repeat(np.arange(50), 10))]
    share = right[0, 0, :50].mean()
    assert resampled(grouped, np.random.default_rng(0)).std() == pytest.approx((share * (1 - share) / 50) ** 0.5, rel=0.1)


def test_the_spread_over_seeds_is_the_standard_error_of_their_mean():
    seeds = np.array([1, 1, 0, 0, 0], np.float32)  # right on every example, or on none
    right = [(np.repeat(seeds[None, :, None], 20, axis=2), np.arange(20))]
    means = resampled(right, np.random.default_rng(0)).mean(axis=(2, 3))
    assert means.std() == pytest.approx(np.std(seeds, ddof=1) / 5**0.5, rel=0.06)


def test_the_interquartile_mean_leaves_out_a_quarter_at_either_end():
    values = np.array([[[0.0, 0.5, 0.6, 0.9], [0.1, 0.7, 0.8, 1.0]]])  # one method, two seeds, four tasks
    assert iqm(values) == pytest.approx(np.mean([0.5, 0.6, 0.7, 0.8]))
    assert improvement(np.array([[[0.1, 0.5]], [[0.1, 0.4]]])) == pytest.approx([0.75, 0.25])


@pytest.mark.parametrize(
    "lacking",
    [
        lambda study: replace(study, answers={}),
        lambda study: replace(study, methods=[{**method, "group": "reference"} for method in study.methods]),
        lambda study: replace(study, suite={**study.suite, "tasks": [{"id": "a", "metric": "matthews"}, {"id": "b"}]}),
    ],
    ids=["predictions", "merges", "right and wrong answers"],
)
def test_where_nothing_can_be_ranked_the_table_says_so(lacking, tmp_path):
    render_table(lacking(made({"one": 0.5, "two": 0.6})), RECORD, tmp_path / "ranks_toy")
    text = (tmp_path / "ranks_toy.md").read_text(encoding="utf-8")
    assert "This suite has no measurements of this kind." in text
    assert (tmp_path / "ranks_toy.tex").exists() and (tmp_path / "ranks_toy.csv").exists()


def test_one_merge_is_the_first():
    found = rows(made({"one": 0.5}))["one"]
    assert (found["rank"], found["rank_low"], found["rank_high"], found["best"]) == (1, 1, 1, "best")
