"""Training sets that go round the tasks with the seed, by the rules: sizes reach training, coefficients, averages and tests.

The same run merges a random subset of the experts.
"""

import csv
import json

import numpy as np
import pytest
import tiny
from models import merger, method_specs
from project import Project

from experiment.subsets import drawn

SIZES = [16, 48, 144]
SEEDS = {0: {"fruit": 16, "weather": 48, "tools": 144}, 1: {"fruit": 48, "weather": 144, "tools": 16}}
SUBSETS = {"sizes": [2, 3], "draws": 1}
METHODS = ["pretrained", "individual", "weight_averaging", "weight_averaging+data_size", "multitask"]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    project = Project(tiny.build(tmp_path_factory.mktemp("sizes") / "project"))

    def rotate(suite):
        suite["finetune"].update(sizes=SIZES, undertrained=0.25)
        suite["splits"] = {"test": 50}
        del suite["premise"]

    project.edit("config/suites/tiny.yaml", rotate)
    shown = {"tables": ["main", "comparisons", "experts", "subsets"], "figures": ["coefficients", "subsets"]}
    project.edit("config/config.yaml", lambda config: config.update(methods=METHODS, seeds=[*SEEDS], subsets=SUBSETS, **shown))
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


def subset(project, seed):
    """The experts of the one subset, and what was recorded of its merges."""
    record = json.loads((project / f"results/subsets/tiny/2-0/seed{seed}.json").read_text())
    return drawn(tiny.TASKS, 2, 1, seed=0)[0], record


def test_a_merge_over_a_subset_is_that_of_its_experts_with_their_coefficients(ran, tmp_path):
    for seed, sizes in SEEDS.items():
        chosen, record = subset(ran, seed)
        made = record["provenance"]["merges"]
        table = made["weight_averaging+data_size"]["coefficients"]
        ((row),) = table["rows"].values()
        assert {*table["experts"]} == {*chosen}
        assert row == pytest.approx([sizes[task] / sum(sizes[each] for each in chosen) for task in table["experts"]])
        folder, found = ran / "results/checkpoints/tiny", {}
        experts = {task: folder / f"seed{seed}/{task}" for task in chosen}
        merge = merger(method_specs()["weight_averaging"], folder / "pretrained", experts, tiny.SUITE["merge"]["exclude"])
        merge(tmp_path / str(seed), finish=lambda _, inputs, written, found=found: found.update(inputs=inputs, merged=written))
        assert found == {key: made["weight_averaging"][key] for key in found}
    assert not list((ran / "results/subsets").rglob("*.safetensors")) and not ran.leftovers()


def test_subsets_are_shown_by_their_size_with_the_merges_of_all_experts(ran):
    scores = [score for seed in SEEDS for score in subset(ran, seed)[1]["scores"] if score["method"] == "weight_averaging"]
    assert {score["task"] for score in scores} == {*subset(ran, 0)[0]}
    best = {(row["task"], int(row["seed"])): float(row["value"]) for row in rows(ran, "results/scores.tsv", method="individual")}
    normalised = np.mean([score["value"] / best[score["task"], score["seed"]] for score in scores])
    found = {row["experts"]: row for row in rows(ran, "results/tables/subsets_tiny.csv", method="weight_averaging")}
    assert float(found["2"]["normalised"]) == pytest.approx(normalised) and found["2"]["complete"] == "False"
    (main,) = rows(ran, "results/tables/main_tiny.csv", method="weight_averaging")
    assert float(found["3"]["average"]) == pytest.approx(float(main["average"])) and found["3"]["complete"] == "True"
    assert {row["method"] for row in rows(ran, "results/tables/subsets_tiny.csv")} == {*METHODS} - {"individual", "multitask"}
    assert "same random subsets" in (ran / "results/figures/subsets_tiny.svg").read_text()


def test_more_draws_score_the_new_subsets_alone_and_measure_nothing_again(ran):
    more = ran.jobs("--config", "subsets={sizes: [2, 3], draws: 3}")
    wanted = {f"score_subset: tiny, 2-{number}, seed {seed}" for number in (1, 2) for seed in SEEDS}
    rest = ("render_table", "draw_figure", "write_", "gather_", "compare_")
    assert {job for job in more if not job.startswith((*rest, "all"))} == wanted
    assert {file.name for file in (ran / "results/measures/tiny").iterdir()} == {"seed0.json", "seed1.json"}


def test_more_examples_than_there_are_is_a_message(ran, tmp_path):
    project = ran.copy(tmp_path / "project")
    project.edit("config/suites/tiny.yaml", lambda suite: suite["finetune"].update(sizes=[5000]))
    done = project.run("results/checkpoints/tiny/seed0/fruit")
    assert done.code and "expected 5000 training examples, found 200; lower `sizes` of the suite" in done.text
