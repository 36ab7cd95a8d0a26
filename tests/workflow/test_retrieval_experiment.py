"""Sentence encoders with a dense layer on retrieval in small: from a hub on the loopback to the tables, by the rules of users.

What is asserted of merges was computed beside the workflow, from the models of the library. More: tests/unit/models.
"""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import tiny_sentences as world
from from_hub import locked_and_run
from project import Project

from nan_merge.core.files import read_json, read_table

pytestmark = [pytest.mark.demo, pytest.mark.slow]  # tests of the family run in one process: tests/unit/models
SUITE, TASKS = "minilm_retrieval_3", ["scifact", "nfcorpus"]
METHODS = ["pretrained", "individual", "weight_averaging", "task_arithmetic", "task_arithmetic+nan_delta"]


def project(folder):
    """Return a project in which the shipped entries name the tiny repositories; the suite has two experts and two tasks."""
    made = Project(tiny.copy_code(folder))
    files = {"bytes": 10**6, "members": ["*.json", "*.safetensors", "1_Pooling/*", "2_Dense/*", "3_Normalize/*"]}

    def assets(records):
        records["minilm_l6_h384"] |= {"repo": "tiny/sentences", **files}
        each = {name: {"name": f"tiny/sentences_{name}"} for name in world.EXPERTS}
        records["sentences_{}"] |= {"repo": "{}", "each": each, **files}
        records["data_beir_{}"] |= {"repo": "tiny/{}"}

    made.edit("config/assets.yaml", assets)
    made.edit("config/tasks.yaml", lambda tasks: [tasks[task]["harness"].update(examples=40, documents=80) for task in TASKS])
    experts = {name: f"sentences_{name}" for name in world.EXPERTS}
    made.edit(f"config/suites/{SUITE}.yaml", lambda suite: suite.update(tasks=TASKS, groups={"all": TASKS}, experts=experts))
    run = {"seeds": [0], "suites": [SUITE], "methods": METHODS, "scoring": {"batch_size": 16}, "keep_merged": True}
    tiny.write_yaml(made / "config/config.yaml", {**run, "tables": ["main", "ranks"], "figures": []})
    return made


def test_sentence_encoders_go_from_the_hub_to_the_tables(tmp_path):
    from sentence_transformers import SentenceTransformer

    models = world.build(tmp_path / "hub")
    made = project(tmp_path / "project")
    locked_and_run(made, tmp_path / "hub")
    texts = ["ask1 ask2 ask3", "title tell4 tell5 tell6 tell7"]
    one, two = (models[name].state_dict() for name in world.EXPERTS)
    models["low"].load_state_dict({name: (tensor + two[name]) / 2 for name, tensor in one.items()})
    merged = SentenceTransformer(str(made / f"results/merged/{SUITE}/weight_averaging/seed0"), device="cpu")
    assert np.abs(merged.encode(texts) - models["low"].encode(texts)).max() < 1e-6
    measured = read_json(made / f"results/measures/{SUITE}/seed0.json")
    assert "2_Dense/linear.weight" in str(measured)
    for method in ("pretrained", "expert_low", "expert_high", *METHODS[2:]):
        stated = read_json(made / f"results/scores/{SUITE}/{method}/seed0/all.json")["scores"]
        values = {row["task"]: row["value"] for row in stated if row["metric"] == "ndcg_at_10"}
        with np.load(made / f"results/scores/{SUITE}/{method}/seed0/all.npz") as arrays:
            for task in TASKS:
                attained, best = (arrays[f"{task}.{part}"].astype(float) for part in ("prediction", "label"))
                assert values[task] == (attained / best).mean() and len(best) == 40
    compared = [row for row in read_table(made / "results/comparisons.tsv") if row["method"] == METHODS[-1]]
    assert compared and {row["n"] for row in compared} == {"80"}
    assert all(float(row["low"]) <= float(row["difference"]) <= float(row["high"]) for row in compared)
    page = (made / f"results/tables/main_{SUITE}.md").read_text()
    assert "Scores are accuracy except for SciFact, NFCorpus: nDCG at 10." in page and "paired query by query" in page
    assert "count correct answers" not in page and "SciFact" in page
