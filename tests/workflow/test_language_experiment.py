"""The papers' classifiers in small: from a hub on the loopback to the tables, by the rules and entries that users run.

What is asserted of answers was computed beside the workflow, by the classifiers of transformers.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import clip_project
import language_project
import numpy as np
import pytest
import tiny_classifiers
import torch
from clip_project import TOKEN
from hub import Hub
from language_project import GRID, SUITES, held
from project import Project
from scipy import stats

from nan_merge.core.files import read_json, read_table

pytestmark = pytest.mark.demo


@dataclass
class Experiment:
    """What was published, and the project after its run; shared, so read it and leave it as it is."""

    models: dict[str, dict[str, Any]]
    published: Path
    project: Project

    def predictions(self, suite: str, method: str) -> dict[str, np.ndarray]:
        """Return the answers to every test example, by task."""
        with np.load(self.project / f"results/scores/{suite}/{method}/seed0/all.npz") as found:
            return {task: found[f"{task}.prediction"] for task in SUITES[suite][1]}

    def scores(self, suite: str, method: str, kind: str = "scores") -> dict[tuple[str, str], float]:
        """Return the scores of a method by task and metric."""
        found = read_json(self.project / f"results/{kind}/{suite}/{method}/seed0/all.json")["scores"]
        return {(score["task"], score["metric"]): score["value"] for score in found}

    def expected(self, suite: str, task: str, body: dict[str, torch.Tensor] | None = None) -> np.ndarray:
        """Return the answers of the classifier of a task, or of its head on another body."""
        kind = SUITES[suite][0]
        model = copy.deepcopy(self.models[kind][task])
        if body:
            getattr(model, model.base_model_prefix).load_state_dict(body)
        ids, mask, _ = language_project.examples(self.published, kind, task, held(task))
        return tiny_classifiers.answers(model, ids, mask).numpy()

    def body(self, suite: str, name: str) -> dict[str, torch.Tensor]:
        """Return the tensors of the body of an expert or of the base."""
        model = self.models[SUITES[suite][0]][name]
        return getattr(model, model.base_model_prefix, model).state_dict()


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Experiment]:
    """Publish the small world, lock it and run both suites."""
    folder = tmp_path_factory.mktemp("language")
    models = language_project.build(folder / "published")
    project = language_project.project(folder / "project")
    with Hub(TOKEN) as hub:
        language_project.serve(hub, folder / "published")
        locked = clip_project.lock(project, hub.url, *language_project.assets())
        assert locked.code == 0, locked.text
        done = project.run(HF_ENDPOINT=hub.url, HF_TOKEN=TOKEN)
        assert done.code == 0, done.text[-6000:]
        yield Experiment(models, folder / "published", project)


def close(found: np.ndarray, wanted: np.ndarray) -> bool:
    """Say whether answers are the same: all classes but a tie in a hundred, numbers to six digits."""
    return bool(np.allclose(found, wanted, atol=1e-4) if found.dtype.kind == "f" else (found == wanted).mean() >= 0.99)


@pytest.mark.parametrize("suite", SUITES)
def test_experts_answer_as_the_classifiers_of_transformers(experiment, suite):
    for task, found in experiment.predictions(suite, "individual").items():
        assert close(found, experiment.expected(suite, task)), task


@pytest.mark.parametrize("suite", SUITES)
def test_the_base_and_the_average_are_scored_with_the_head_of_every_expert(experiment, suite):
    base, *experts = (experiment.body(suite, name) for name in ("base", *SUITES[suite][1]))
    mean = {name: sum(expert[name] for expert in experts) / len(experts) for name in base}
    for method, body in {"pretrained": base, "weight_averaging": mean}.items():
        for task, found in experiment.predictions(suite, method).items():
            assert close(found, experiment.expected(suite, task, body)), (method, task)


@pytest.mark.parametrize("suite", SUITES)
def test_experts_are_better_than_the_base_and_merges_are_between(experiment, suite):
    tables = read_table(experiment.project / "results/scores.tsv")
    assert {row["suite"] for row in tables} == set(SUITES)
    chosen = {"cola": "accuracy" if suite == "gpt2_7" else "matthews", "mnli": "accuracy", "stsb": "pearson_spearman"}
    average = {
        method: np.mean([experiment.scores(suite, method)[task, chosen[task]] for task in SUITES[suite][1]])
        for method in ("pretrained", "regmean", "individual")
    }
    assert average["pretrained"] + 0.1 < average["regmean"] < average["individual"], average


def test_metrics_are_those_of_the_answers(experiment):
    scores = experiment.scores("roberta_base_8", "weight_averaging")
    with np.load(experiment.project / "results/scores/roberta_base_8/weight_averaging/seed0/all.npz") as found:
        cola, numbers = ((found[f"{task}.prediction"], found[f"{task}.label"]) for task in ("cola", "stsb"))
    assert scores.keys() == {
        ("cola", "accuracy"), ("cola", "matthews"), ("stsb", "pearson"), ("stsb", "spearman"), ("stsb", "pearson_spearman"),
    }  # fmt: skip
    assert scores["cola", "accuracy"] == (cola[0] == cola[1]).mean()
    assert scores["stsb", "spearman"] == pytest.approx(stats.spearmanr(*numbers).statistic)
    assert experiment.scores("gpt2_7", "weight_averaging").keys() == {("cola", "accuracy"), ("mnli", "accuracy")}


@pytest.mark.parametrize("suite", SUITES)
def test_tuning_goes_by_the_metrics_of_the_tasks_on_validation(experiment, suite):
    found = {value: experiment.scores(suite, f"task_arithmetic_tuned-{value:g}", "validation") for value in GRID}
    metrics = {metric for scores in found.values() for _, metric in scores}
    assert metrics == {f"validation_{name}" for name in (["accuracy"] if suite == "gpt2_7" else ["matthews", "pearson_spearman"])}
    best = max(found, key=lambda value: sum(found[value].values()))
    assert read_json(experiment.project / f"results/selected/{suite}/task_arithmetic_tuned/seed0.json")["value"] == best


def test_evidence_is_collected_or_its_methods_are_skipped_with_a_reason(experiment):
    results = experiment.project / "results"
    assert (results / "calibration/gpt2_glue/fisher").is_dir() and (results / "coefficients/gpt2_7/adamerging_layer").is_dir()
    assert not (results / "calibration/roberta_glue/fisher").exists()
    page = (results / "tables/main_roberta_base_8.md").read_text()
    assert page.count("it needs class probabilities, and the labels of STS-B are numbers") == 1
    assert "except for CoLA: Matthews correlation; STS-B: mean of Pearson's and Spearman's correlation" in page
    assert "without STS-B, whose labels are numbers" in page
    assert "except for" not in (results / "tables/main_gpt2_7.md").read_text()


def test_heads_are_the_experts_own_and_bodies_have_none(experiment):
    results = experiment.project / "results"
    heads = {str(file.relative_to(results / "heads")) for file in results.glob("heads/*/*.safetensors")}
    places = {"gpt2_7": "gpt2_glue", "roberta_base_8": "roberta_glue"}
    assert heads == {f"{places[suite]}/{task}.safetensors" for suite, (_, tasks) in SUITES.items() for task in tasks}
    merged = json.loads((results / "merged/gpt2_7/regmean/seed0/config.json").read_text())
    assert merged["model_type"] == "gpt2" and (results / "published/ace_gpt2.md").exists()
