"""Training sets that go round the tasks with the seed, by the rules: sizes reach training, coefficients, averages and tests."""

import csv
import json

import numpy as np
import pytest
import tiny
from project import Project

SIZES = [16, 48, 144]
SEEDS = {0: {"fruit": 16, "weather": 48, "tools": 144}, 1: {"fruit": 48, "weather": 144, "tools": 16}}
METHODS = ["pretrained", "individual", "weight_averaging", "weight_averaging+data_size", "multitask"]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    project = Project(tiny.build(tmp_path_factory.mktemp("sizes") / "project"))

    def rotate(suite):
        suite["finetune"].update(sizes=SIZES, undertrained=0.25)
        suite["splits"] = {"test": 50}
        del suite["premise"]

    project.edit("config/suites/tiny.yaml", rotate)
    shown = {"tables": ["main", "comparisons", "experts"], "figures": ["coefficients"]}
    project.edit("config/config.yaml", lambda config: config.update(methods=METHODS, seeds=[*SEEDS], **shown))
    project.made()
    return project


def rows(project, file, **wanted):
    with open(project / file, newline="") as lines:
        found = list(csv.DictReader(lines, delimiter="\t" if file.endswith("tsv") else ","))
    return [row for row in found if all(row[key] == value for key, value in wanted.items())]


def test_coefficients_by_data_size_are_those_of_each_seed(ran):
    for seed, sizes in SEEDS.items():
        table = json.loads((ran / f"results/coefficients/tiny/weight_averaging+data_size/seed{seed}.json").read_text())
        assert table["examples"] == sizes
        ((row),) = table["rows"].values()
        assert row == pytest.approx([sizes[task] / sum(SIZES) for task in table["experts"]])


def test_the_expert_that_is_undertrained_took_fewer_steps(ran):
    for seed, short in ((0, "fruit"), (1, "weather")):
        for task in tiny.TASKS:
            log = (ran / f"results/logs/finetune_checkpoint/tiny/seed{seed}/{task}.log").read_text()
            assert f"/{10 if task == short else 40}" in log


def test_the_weighted_average_takes_the_sizes_of_each_seed(ran):
    found = rows(ran, "results/scores.tsv", method="individual")
    scores = {(row["task"], int(row["seed"])): float(row["value"]) for row in found}
    by_hand = [np.average([scores[task, seed] for task in sizes], weights=[*sizes.values()]) for seed, sizes in SEEDS.items()]
    (main,) = rows(ran, "results/tables/main_tiny.csv", method="individual")
    assert float(main["weighted_average"]) == pytest.approx(np.mean(by_hand))
    pair = {"method": "weight_averaging+data_size", "against": "weight_averaging", "kind": "host"}
    found = {row["task"]: row for row in rows(ran, "results/comparisons.tsv", **pair)}
    assert set(found) == {"average", "weighted_average"} and found["average"]["seeds"] == "0 1"


def test_only_so_many_test_examples_are_prepared_and_no_model_of_all_tasks_is_trained(ran):
    assert {row["n"] for row in rows(ran, "results/scores.tsv")} == {"50"}
    assert "multitask" not in {row["method"] for row in rows(ran, "results/scores.tsv")}
    report = (ran / "results/report.html").read_text()
    assert "with every seed" in report and "they go round the tasks with the fine-tuning seed" in report
    assert ran.jobs() == set()


def test_more_examples_than_there_are_is_a_message(ran, tmp_path):
    project = ran.copy(tmp_path / "project")
    project.edit("config/suites/tiny.yaml", lambda suite: suite["finetune"].update(sizes=[5000]))
    done = project.run("results/checkpoints/tiny/seed0/fruit")
    assert done.code and "expected 5000 training examples, found 200; lower `sizes` of the suite" in done.text
