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
    "a key of lm_eval": ({"harness": {"chat_template": True}}, "harness: its tasks are retrieval, which does not read it"),
    "sizes of splits": ({"splits": {"validation": 10}}, "splits: its tasks are retrieval, which does not read it"),
    "training": (
        {"experts": None, "finetune": {"tasks": {"a": ["scifact"], "b": ["nfcorpus"]}, "learning_rate": 1.0e-4, "steps": 1,
                                       "batch_size": 8, "weight_decay": 0.0, "frozen": []}},
        "finetune: experts of sentence_encoder are not trained here",
    ),
}  # fmt: skip


def changed(folder, keys, run=RUN, task=None):
    """Return the experiment of the suite with other keys (None: without the key), its first task with more keys of `harness`."""
    shutil.copytree(ROOT / "config", folder / "config")
    (folder / "workflow").symlink_to(ROOT / "workflow")
    file = folder / f"config/suites/{SUITE}.yaml"
    record = {**read_yaml(file), **keys}
    record = {key: value for key, value in {**record, "groups": {"all": record["tasks"]}}.items() if value is not None}
    file.write_text(yaml.safe_dump(record))
    if task:
        tasks = read_yaml(folder / "config/tasks.yaml")
        tasks["scifact"]["harness"] |= task
        (folder / "config/tasks.yaml").write_text(yaml.safe_dump(tasks))
    return Experiment(run, folder)


def test_tasks_are_scored_by_ndcg_and_experts_are_rows(tmp_path):
    found = changed(tmp_path, {})
    assert {found.metric(SUITE, task) for task in found.task_ids(SUITE)} == {"ndcg_at_10"} and found.is_benchmarked(SUITE)
    assert {"expert_all_minilm", "expert_multi_qa", "expert_msmarco"} <= set(found.run(SUITE))


@pytest.mark.parametrize("kind", MISTAKES)
def test_families_and_tasks_that_do_not_go_together_are_named(kind, tmp_path):
    keys, message = MISTAKES[kind]
    with pytest.raises(UserError, match=f"config/suites/{SUITE}.yaml: .*{message}"):
        changed(tmp_path, keys)


@pytest.mark.parametrize("key", [{"backend": "vllm"}, {"parallelize": 2}])
def test_how_language_models_are_run_is_refused(key, tmp_path):
    (name,) = key
    with pytest.raises(UserError, match=f"scoring: {name}: only for language models on benchmarks, and '{SUITE}' is no such"):
        changed(tmp_path, {}, {**RUN, "scoring": {"device": "cuda", **key}})


UNREAD = {
    "num_fewshot": 1, "metric": "acc", "filter": "none", "correlation": "spearman", "generated": 5, "unanswered": 0.1,
    "folder": "mmlu", "tasks": ["mmlu"],
}  # fmt: skip


@pytest.mark.parametrize("key", UNREAD)
def test_keys_of_lm_eval_in_a_task_of_retrieval_are_refused(key, tmp_path):
    message = rf"tasks.yaml: scifact.harness: the keys \['retrieval', '{key}'\] exclude each other"
    with pytest.raises(UserError, match=message):
        changed(tmp_path, {}, task={key: UNREAD[key]})
