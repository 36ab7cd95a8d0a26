"""Suites of sentence encoders: their metric, and families and tasks that do not go together."""

from __future__ import annotations

import shutil

import pytest
import yaml
from models import ROOT

from experiment.experiment import Experiment
from nan_merge.catalogue.files import read_yaml
from nan_merge.core.errors import UserError

SUITE = "minilm_retrieval_3"
RUN = {"suites": [SUITE], "seeds": [0], "methods": ["individual", "weight_averaging"], "tables": [], "figures": []}
MISTAKES = {
    "another family": ({"family": "causal_lm"}, "no other family runs those; found family causal_lm with 'scifact'"),
    "another task": ({"tasks": ["mmlu"]}, "runs tasks with `harness: retrieval`.*found family sentence_encoder with 'mmlu'"),
    "mixed tasks": ({"tasks": ["scifact", "mmlu"]}, "found family sentence_encoder with 'mmlu'"),
    "training": (
        {"experts": None, "finetune": {"tasks": {"a": ["scifact"], "b": ["nfcorpus"]}, "learning_rate": 1.0e-4, "steps": 1,
                                       "batch_size": 8, "weight_decay": 0.0, "frozen": []}},
        "finetune: experts of sentence_encoder are not trained here",
    ),
}  # fmt: skip


def changed(folder, keys):
    """Return the experiment of the suite with other keys (None: without the key)."""
    shutil.copytree(ROOT / "config", folder / "config")
    (folder / "workflow").symlink_to(ROOT / "workflow")
    file = folder / f"config/suites/{SUITE}.yaml"
    record = {**read_yaml(file), **keys}
    record = {key: value for key, value in {**record, "groups": {"all": record["tasks"]}}.items() if value is not None}
    file.write_text(yaml.safe_dump(record))
    return Experiment(RUN, folder)


def test_tasks_are_scored_by_ndcg_and_experts_are_rows(tmp_path):
    found = changed(tmp_path, {})
    assert {found.metric(SUITE, task) for task in found.task_ids(SUITE)} == {"ndcg_at_10"} and found.is_benchmarked(SUITE)
    assert {"expert_all_minilm", "expert_multi_qa", "expert_msmarco"} <= set(found.run(SUITE))


@pytest.mark.parametrize("kind", MISTAKES)
def test_families_and_tasks_that_do_not_go_together_are_named(kind, tmp_path):
    keys, message = MISTAKES[kind]
    with pytest.raises(UserError, match=f"config/suites/{SUITE}.yaml: .*{message}"):
        changed(tmp_path, keys)
