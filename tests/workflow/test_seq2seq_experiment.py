"""Adapters of Flan-T5 on GLUE in small: from a hub on the loopback to the tables, by the suite, tasks and rules that users run.

What is asserted of answers was computed beside the workflow, one token after another. More models: tests/unit/models.
"""

from __future__ import annotations

import copy
import gzip
import json

import pytest
import seq2seq_project as world
import tiny_t5
from from_hub import locked_and_run
from seq2seq_project import TASKS

from nan_merge.core.files import read_json

pytestmark = [pytest.mark.demo, pytest.mark.slow]  # tests of the families run in one process: tests/unit/models
SUITE = "flan_t5_base_lora_8"


def test_adapters_go_from_the_hub_to_the_tables(tmp_path):
    models = world.build(tmp_path / "hub")[SUITE]
    project = world.project(tmp_path / "project")
    locked_and_run(project, tmp_path / "hub")
    mean = copy.deepcopy(models["base"])
    experts = [models[task].state_dict() for task in TASKS]
    mean.load_state_dict({name: sum(expert[name] for expert in experts) / len(experts) for name in mean.state_dict()})
    for task in TASKS:
        prompts, _ = world.examples(tmp_path / "hub", task, "validation")
        for method, model in {"individual": models[task], "weight_averaging": mean}.items():
            given, expected = outputs(project, method, task), tiny_t5.written(model, world.WORDS, prompts[:10])
            assert sum(one == two for one, two in zip(given, expected, strict=False)) >= 9, (method, task)
    page = (project / f"results/tables/main_{SUITE}.md").read_text()
    assert "Scores are accuracy except for STS-B: Spearman's rank correlation." in page
    assert "on the tasks, without STS-B, whose labels are numbers" in page and "benchmarks are for tests only" in page
    assert "measured" in (project / "results/published/fusionbench_flan_t5.md").read_text()
    config = read_json(project / f"results/merged/{SUITE}/weight_averaging/seed0/config.json")
    assert config["tie_word_embeddings"] is False


def outputs(project, method, task):
    """Return what a model wrote to every prompt of a task."""
    with gzip.open(project / f"results/scores/{SUITE}/{method}/seed0/all.jsonl.gz", "rt") as lines:
        return [line["output"] for line in map(json.loads, lines) if line["benchmark"] == task]
