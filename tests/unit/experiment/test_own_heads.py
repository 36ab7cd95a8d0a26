"""Suites whose experts keep their own heads: what they may say, and which methods apply to them."""

from __future__ import annotations

import shutil

import pytest
import yaml
from models import ROOT

from experiment.experiment import Experiment
from nan_merge.catalogue.files import read_yaml
from nan_merge.core.errors import UserError

METHODS = ["pretrained", "individual", "weight_averaging", "regmean", "fisher", "adamerging_layer"]


@pytest.fixture
def changed(tmp_path):
    """Return a function that reads a suite with other keys (None: without the key), and tasks with other keys."""
    shutil.copytree(ROOT / "config", tmp_path / "config")
    (tmp_path / "workflow").symlink_to(ROOT / "workflow")

    def read(suite, of_tasks=None, **keys):
        for file, changes in ((f"suites/{suite}.yaml", {"": keys}), ("tasks.yaml", of_tasks or {})):
            path = tmp_path / "config" / file
            record = read_yaml(path)
            for name, change in changes.items():
                inner = record[name] if name else record
                inner.update(change)
                for key in [key for key, value in change.items() if value is None]:
                    del inner[key]
            path.write_text(yaml.safe_dump(record))
        return Experiment({"suites": [suite], "seeds": [0], "methods": METHODS, "tables": [], "figures": []}, tmp_path)

    return read


def test_heads_lie_with_the_checkpoints_and_logits_are_not_scaled(changed):
    found = changed("gpt2_7")
    assert found.heads("gpt2_7") == "gpt2_glue" and found.tower("gpt2_7") == ""
    assert found.logit_scale("gpt2_7") == 1.0
    assert {"gpt2", "gpt2_cola", "data_glue_cola"} <= set(found.used_assets())
    assert found.run("gpt2_7") == METHODS, "evidence of classifiers is like that of other models"


def test_methods_that_need_classes_are_skipped_where_labels_are_numbers(changed):
    found = changed("roberta_base_8")
    assert found.run("roberta_base_8") == METHODS[:4]
    reasons = found.skipped_methods("roberta_base_8")
    for method in ("fisher", "adamerging_layer"):
        assert reasons[method] == "it needs class probabilities, and the labels of STS-B are numbers"
    metrics = {task: found.metric("roberta_base_8", task) for task in ("cola", "mnli", "stsb")}
    assert metrics == {"cola": "matthews", "mnli": "accuracy", "stsb": "pearson_spearman"}


MISTAKES = {
    "both kinds of heads": (
        {"text_tower": "minilm_l6", "logit_scale": 1.0},
        "expected `text_tower` (heads of class prompts) or else `head: expert` (their own), found `text_tower` and `head`",
    ),
    "no heads": ({"head": None}, "or else `head: expert` (their own), found none of them"),
    "another head": ({"head": "experts"}, "head: unknown value 'experts'; did you mean 'expert'?"),
    "an unknown metric": ({"metrics": {"cola": "mathews"}}, "metrics.cola: unknown value 'mathews'; did you mean 'matthews'?"),
    "a metric of another task": ({"metrics": {"wnli": "matthews", "stsb": "pearson_spearman"}}, "metrics: unknown 'wnli'"),
    "numbers by a metric of classes": (
        {"metrics": {"stsb": "f1_accuracy"}},
        "roberta_base_8.yaml: metrics: stsb: its labels are numbers, so its metric is pearson_spearman, not f1_accuracy",
    ),
    "numbers by accuracy": ({"metrics": {}}, "stsb: its labels are numbers, so its metric is pearson_spearman, not accuracy"),
    "classes by a correlation": (
        {"metrics": {"sst2": "pearson_spearman", "stsb": "pearson_spearman"}},
        "metrics: sst2: its labels are classes, so its metric is accuracy, matthews or f1_accuracy, not pearson_spearman",
    ),
    "three classes by Matthews": (
        {"metrics": {"mnli": "matthews", "stsb": "pearson_spearman"}},
        "metrics: mnli: matthews needs two labels, and 'mnli' has 3; remove it",
    ),
    "a task with prompts": (
        {"of_tasks": {"cola": {"labels": None, "classes": ["bad", "good"], "prompt": "{}"}}},
        "tasks: with `head: expert` a task needs `labels` or `class_names` (config/tasks.yaml); 'cola' has none",
    ),
    "a task with labels under a text tower": (
        {"head": None, "text_tower": "minilm_l6", "logit_scale": 1.0},
        "tasks: with `text_tower` a task needs a `prompt` or `class_names` (config/tasks.yaml); 'cola' has none",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told(changed, mistake):
    keys, message = MISTAKES[mistake]
    with pytest.raises(UserError) as error:
        changed("roberta_base_8", **keys)
    assert message in str(error.value)


def test_labels_are_names_or_the_word_number(changed):
    with pytest.raises(UserError, match=r"config/tasks.yaml: cola\.labels: .*numbers"):
        changed("gpt2_7", of_tasks={"cola": {"labels": "numbers"}})
