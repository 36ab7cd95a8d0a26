"""Tasks with another metric than accuracy: averages, intervals, notes, and what the paired tests compare."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from nan_merge.core.errors import UserError
from nan_merge.core.files import read_table
from nan_merge.data import metrics
from nan_merge.reporting import method_tables, score_tables
from nan_merge.reporting.paired_tests import Answers, compare_methods
from nan_merge.reporting.pairs import all_pairs, standings
from nan_merge.reporting.ranks import ranks
from nan_merge.reporting.report import write_report
from nan_merge.reporting.statistics import candidates, summarise, wilson
from nan_merge.reporting.study import Score, Study, gather_scores, studies

TASKS = [
    {"id": "cola", "label": "CoLA", "metric": "matthews"},
    {"id": "sst2", "label": "SST-2"},
    {"id": "stsb", "label": "STS-B", "metric": "pearson_spearman"},
]
VALUES = {  # method -> task -> metric -> (value, standard error)
    "individual": {"cola": {"accuracy": (0.8, 0.04), "matthews": (0.5, 0.05)}, "sst2": {"accuracy": (0.9, 0.03)},
                   "stsb": {"pearson": (0.7, 0.1), "spearman": (0.9, 0.1), "pearson_spearman": (0.8, 0.1)}},
    "merge": {"cola": {"accuracy": (0.7, 0.05), "matthews": (-0.1, 0.05)},
              "sst2": {"accuracy": (0.45, math.sqrt(0.45 * 0.55 / 100))},
              "stsb": {"pearson": (0.3, 0.1), "spearman": (0.5, 0.1), "pearson_spearman": (0.4, 0.1)}},
}  # fmt: skip


def written(folder, values, prefix=""):
    """Write score files as evaluations do, with answers where a task has accuracy."""
    files = []
    for method, tasks in values.items():
        file = folder / f"{method}.json"
        usual = {"suite": "glue", "method": method, "n": 100, "seed": 0}
        scores = [
            {**usual, "task": task, "metric": prefix + metric, "value": value, "stderr": error}
            for task, metrics in tasks.items()
            for metric, (value, error) in metrics.items()
        ]
        file.write_text(json.dumps({"scores": scores}))
        right = {t: np.arange(100) < 100 * m["accuracy"][0] if "accuracy" in m else np.zeros(100) for t, m in tasks.items()}
        parts = {f"{task}.prediction": np.asarray(found, int) for task, found in right.items()}
        np.savez(file.with_suffix(".npz"), **parts, **{f"{task}.label": np.ones(100, int) for task in tasks})
        files.append(file)
    return files


@pytest.fixture
def study(tmp_path):
    files = written(tmp_path, VALUES)
    (tmp_path / "validation").mkdir()
    files += written(tmp_path / "validation", {"merge-0.5": VALUES["merge"]}, "validation_")
    gather_scores(files, tmp_path / "scores.tsv")
    pairs = [{"suite": "glue", "method": "merge", "against": "individual", "kind": "host"}]
    compare_methods(files, pairs, tmp_path / "comparisons.tsv")
    methods = [{"id": "individual", "label": "Individual"}, {"id": "merge", "label": "Merge"}]
    suite = {"id": "glue", "label": "GLUE", "tasks": TASKS, "seeds": [0]}
    return studies([suite], methods, tmp_path / "scores.tsv", tmp_path / "comparisons.tsv")[0]


def test_each_task_enters_the_averages_by_its_own_metric(study):
    individual, merge = summarise(study)
    assert [individual.tasks[task["id"]].value for task in TASKS] == [0.5, 0.9, 0.8]
    assert merge.average.value == pytest.approx((-0.1 + 0.45 + 0.4) / 3)
    assert merge.normalised.value == pytest.approx((-0.1 / 0.5 + 0.45 / 0.9 + 0.4 / 0.8) / 3)
    assert candidates(study)["merge"][0.5].value == pytest.approx(merge.average.value)


def test_intervals_follow_the_standard_error_except_of_accuracy(study):
    merge = summarise(study)[1]
    limits = {task: (found.low, found.high) for task, found in merge.tasks.items()}
    assert limits["sst2"] == wilson(0.45, 100)
    assert limits["cola"] == pytest.approx((-0.1 - 1.96 * 0.05, -0.1 + 1.96 * 0.05), abs=1e-4)
    assert limits["stsb"] == pytest.approx((0.4 - 1.96 * 0.1, 0.4 + 1.96 * 0.1), abs=1e-4)
    below = np.sqrt(sum((found.value - found.low) ** 2 for found in merge.tasks.values())) / 3
    assert merge.average.low == pytest.approx(merge.average.value - below)


def test_paired_tests_compare_accuracy_where_there_are_classes(study):
    (row,) = study.comparisons
    assert float(row["difference"]) == pytest.approx(((0.7 - 0.8) + (0.45 - 0.9)) / 2)
    assert int(row["n"]) == 200


def test_the_table_says_so(study):
    notes = " ".join(score_tables.accuracy(study, {"title": "Scores", "id": "main"}).notes)
    assert "Score in % on the test split" in notes and "score / score of the individual model" in notes
    assert "except for CoLA: Matthews correlation; STS-B: mean of Pearson's and Spearman's correlation." in notes
    assert "accuracy on the tasks, without STS-B, whose labels are numbers" in notes
    for task in study.suite["tasks"]:
        task.pop("metric", None)
    notes = " ".join(score_tables.accuracy(study, {"title": "Scores", "id": "main"}).notes)
    assert "Accuracy in % on the test split" in notes and "except for" not in notes


def test_scores_by_query_are_paired_ranked_and_told():
    best = np.full(60, 2.0, np.float32)
    draw = np.random.default_rng(0)
    low, high = (best * draw.beta(a, b, 60).astype(np.float32) for a, b in ((2, 4), (4, 2)))
    given = {"low": low, "near": low + np.float32(1e-3) * (draw.random(60) < 0.5), "high": high}
    answers = {("s", name, "t", 0): Answers(found.astype(np.float32), best, name) for name, found in given.items()}
    scores = [
        Score("s", name, "t", "ndcg_at_10", metrics.score("ndcg_at_10", found.prediction, best), 60, 0,
              metrics.standard_error("ndcg_at_10", found.prediction, best))
        for (_, name, _, _), found in answers.items()
    ]  # fmt: skip
    suite = {"id": "s", "label": "S", "tasks": [{"id": "t", "label": "T", "metric": "ndcg_at_10"}], "seeds": [0]}
    study = Study(suite, [{"id": name, "label": name} for name in given], scores, answers=answers)
    (pair,) = (each for each in all_pairs(study, answers) if {each.method, each.against} == {"high", "low"})
    sign = 1 if pair.method == "high" else -1
    assert pair.difference == pytest.approx(sign * float(np.mean((high - low) / 2)), abs=1e-7) and sign * pair.low > 0
    assert standings(study, answers)["t"].best == ["high"] and not standings(study, answers)["t"].alike
    rows = ranks(study, {"title": "Ranks"}).records
    assert (rows[0]["method"], rows[0]["rank"], rows[0]["average"]) == ("high", 1, scores[2].value)
    notes = " ".join(score_tables.accuracy(study, {"title": "Scores", "id": "main"}).notes)
    assert "except for T: nDCG at 10. Differences and p of nDCG at 10 are paired query by query." in notes
    assert "correct answers" not in notes


@pytest.mark.parametrize(
    ("metric", "value", "fits"),
    [
        ("matthews", -0.2, True),
        ("validation_pearson", -1.0, True),
        ("accuracy", -0.2, False),
        ("f1", -0.2, False),
        ("matthews", -1.1, False),
    ],
)
def test_only_correlations_may_be_negative(tmp_path, metric, value, fits):
    (file,) = written(tmp_path, {"merge": {"cola": {metric: (value, 0.1)}}})
    if fits:
        gather_scores([file], tmp_path / "scores.tsv")
        assert float(read_table(tmp_path / "scores.tsv")[0]["value"]) == value
    else:
        with pytest.raises(UserError, match=rf"{value!r}; expected a fraction from -?\d to 1"):
            gather_scores([file], tmp_path / "scores.tsv")


BINOMIAL = math.sqrt(0.7 * 0.3 / 1000)


@pytest.mark.parametrize(
    ("error", "task", "says", "does_not_say"),
    [
        (BINOMIAL, {}, ["examples independent within a task", "Wilson's limits"], ["parts", "other score", "batch size"]),
        (0.04, {}, ["clustered standard error", "take whole parts as the sample"], ["independent within a task", "batch size"]),
        (0.02, {"metric": "matthews"}, ["normal limits of each other score, by a bootstrap"], ["Wilson", "parts"]),
        (BINOMIAL, {"generated": 256}, ["no other batch size, machine or library"], ["parts", "other score"]),
    ],
)
def test_notes_on_intervals_are_true_of_the_scores(error, task, says, does_not_say, tmp_path):
    metric = task.get("metric", "accuracy")
    score = Score("s", "ties", "bbh", metric, 0.7, 1000, 0, error)
    one = Study({"id": "s", "tasks": [{"id": "bbh", **task}]}, [{"id": "ties", "label": "TIES"}], [score])
    write_report([one], one.methods, [], [], {}, tmp_path / "report.html")
    how = (tmp_path / "report.html").read_text(encoding="utf-8")
    for table in (score_tables.accuracy, method_tables.methods):
        notes = " ".join(table(one, {"title": "Scores", "id": "main"}).notes)
        assert all(words in notes for words in says), notes
        assert not any(words in notes for words in does_not_say), notes
    assert ("clustered by part" in how) == (error == 0.04)
    assert ("standard error of a bootstrap" in how) == ("metric" in task)
    assert ("another batch size" in how) == ("generated" in task)
    assert ("strata of independent examples" in how) == (error != 0.04)


def test_scores_of_opencompass_stand_beside_means_over_parts(tmp_path):
    tasks = [{"id": "mmlu", "label": "MMLU"}, {"id": "bbh", "label": "BBH"}]
    ours = {"accuracy": (0.5, 0.01), "macro_accuracy": (0.52, 0.01)}
    files = written(tmp_path, {method: {task["id"]: ours for task in tasks} for method in ("base", "merge")})
    usual = {"suite": "glue", "method": "base", "metric": "opencompass", "stderr": None, "n": 100, "seed": 0}
    scores = [{**usual, "task": task, "value": value} for task, value in (("mmlu", 0.5576), ("bbh", 0.4568))]
    (tmp_path / "check.json").write_text(json.dumps({"scores": scores}))
    methods = [{"id": "base", "label": "Base"}, {"id": "merge", "label": "Merge"}]
    for more in ([], [tmp_path / "check.json"]):
        gather_scores([*files, *more], tmp_path / "scores.tsv")
        suite = {"id": "glue", "label": "GLUE", "tasks": tasks, "seeds": [0]}
        (study,) = studies([suite], methods, tmp_path / "scores.tsv")
        notes = [note for note in score_tables.accuracy(study, {"title": "Scores"}).notes if "OpenCompass" in note]
        assert bool(notes) == bool(more)
    assert notes[0] == "Base by OpenCompass: BBH 45.7 (52.0), MMLU 55.8 (52.0)."
    assert len(notes) == 2 and "both are means over parts" in notes[1]
    assert [row.average.value for row in summarise(study)] == [0.5, 0.5], "no average has them"
