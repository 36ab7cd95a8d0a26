"""Experts without a base: weights of their own, methods that match units there and nowhere else, classes of all tasks at once."""

import shutil

import pytest
import yaml
from models import ROOT, shipped

from experiment.experiment import Experiment
from nan_merge.catalogue.files import read_yaml
from nan_merge.core.errors import UserError
from nan_merge.methods.units import ONE_BASE

OVERLAY = read_yaml(ROOT / "config/from_scratch.yaml")
MATCHED = ["rebasin", "zipit", "zipit_partial"]


def read(root=ROOT, **changes):
    return Experiment({**shipped().config, **OVERLAY, **changes}, root)


def test_every_expert_begins_at_weights_of_its_own_and_the_base_is_no_asset():
    found = read()
    numbers = [found.training("from_scratch", task, 0)["initialisation"] for task in found.task_ids("from_scratch")]
    assert numbers == [0, 1] and found.joint_training("from_scratch")["initialisation"] == 2
    assert found.used_assets() == ["fashion_mnist", "minilm_l6"] and found.base_asset("from_scratch") is None
    assert "initialisation" not in read(suites=["text"]).training("text", "movie", 0)


def test_the_classes_of_both_tasks_are_disjoint_and_those_of_all():
    tasks = [{*shipped().tasks[task]["classes"]} for task in read().task_ids("from_scratch")]
    assert not tasks[0] & tasks[1] and tasks[0] | tasks[1] == {*"0123456789"}


def test_all_classes_are_told_apart_with_the_models_data_and_heads_of_the_tasks():
    found, joint, apart = read(), "from_scratch_joint", "from_scratch"
    assert found.is_joint(joint) and not found.is_joint(apart)
    assert found.run(joint) == found.run(apart) == OVERLAY["methods"]
    for place in (found.data, found.checkpoints, found.heads, found.groups):
        assert place(joint) == place(apart)


def test_units_are_matched_where_there_is_no_base_only():
    found = read(suites=["from_scratch", "text"], methods=["pretrained", "weight_averaging", *MATCHED])
    assert found.skipped_methods("text") == dict.fromkeys(MATCHED, ONE_BASE)
    assert "from different random weights" in ONE_BASE and "in one order already" in ONE_BASE
    reason = "its experts were trained from random weights, and have no base"
    assert found.skipped_methods("from_scratch") == {"pretrained": reason}


def test_units_of_models_of_ones_own_are_not_matched(tmp_path):
    models = {"mine": {"base": "a/b", "experts": {"x": "a/x", "y": "a/y"}}}
    own = read(suites=[], models=models, methods=["weight_averaging", *MATCHED], tables=[], figures=[])
    assert own.skipped_methods("mine") == dict.fromkeys(MATCHED, ONE_BASE)
    with pytest.raises(UserError, match=r"models: mine: no method of the run can merge them \(zipit: it matches the units"):
        read(suites=[], models=models, methods=["zipit"], tables=[], figures=[])


def test_a_harness_reads_the_logits_of_one_model():
    found = read(suites=["smollm"], methods=["individual", "ensemble", "weight_averaging"])
    assert found.skipped_methods("smollm")["ensemble"] == "it is the mean of logits, and a harness reads those of one model"
    assert "ensemble" in read(suites=["text"]).run("text")


MISTAKES = {
    "a base and a network": ("from_scratch", {"base": "minilm_l6"}, "from_scratch.yaml: expected `base`, or else `network` with"),
    "no base": ("from_scratch", {"network": None}, "from_scratch.yaml: expected `base`, or else `network` with `finetune`"),
    "fetched networks": (
        "from_scratch", {"finetune": None, "experts": "vit_b32_{}", "logit_scale": 1.0}, "or else `network` with `finetune`"),
    "no widths": ("from_scratch", {"network": {"projection": 3}}, "network: the key 'widths' is missing"),
    "no units": ("from_scratch", {"network": {"widths": [0], "projection": 3}}, "widths.0: expected a whole number of at"),
    "tasks in two jobs": (
        "from_scratch_joint", {"groups": {"one": ["fashion_last"]}}, "from_scratch_joint.yaml: joint: classes of all tasks"),
    "tasks in another order": (
        "from_scratch_joint", {"groups": {"all": ["fashion_last", "fashion_first"]}}, "one group of all tasks, in their order"),
    "another network": (
        "from_scratch_joint", {"network": {"widths": [3], "projection": 3}}, "says how models are made; remove the key"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_suite_is_told_by_its_key(mistake, tmp_path):
    shutil.copytree(ROOT / "config", tmp_path / "config")
    (tmp_path / "workflow").symlink_to(ROOT / "workflow")
    suite, changes, message = MISTAKES[mistake]
    file = tmp_path / f"config/suites/{suite}.yaml"
    record = {key: value for key, value in {**read_yaml(file), **changes}.items() if value is not None}
    file.write_text(yaml.safe_dump(record))
    with pytest.raises(UserError) as error:
        read(tmp_path)
    assert message in str(error.value)


def test_layers_of_a_matching_are_counted_from_none(tmp_path):
    shutil.copytree(ROOT / "config", tmp_path / "config")
    (tmp_path / "workflow").symlink_to(ROOT / "workflow")
    file = tmp_path / "config/calibration.yaml"
    file.write_text(file.read_text().replace("layers: 2", "layers: -2"))
    with pytest.raises(UserError, match=r"config/calibration.yaml: zip_2.layers: expected a whole number .*, found -2"):
        read(tmp_path)
