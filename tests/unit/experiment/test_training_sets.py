"""Training sets and lengths that change with the fine-tuning seed: a Latin square, equal epochs, one expert cut short."""

from collections import Counter

import pytest
from models import ROOT, shipped

from experiment.experiment import Experiment
from nan_merge.catalogue.files import read_yaml
from nan_merge.core.errors import UserError
from nan_merge.models.training import KEYS
from nan_merge.reporting.recipe import recipe

REGIMES = read_yaml(ROOT / "config/study/regimes.yaml")
STEPS, EPOCHS, SHORT = REGIMES["suites"]


@pytest.fixture(scope="module")
def regimes():
    return Experiment({**shipped().config, **REGIMES}, ROOT)


def test_over_as_many_seeds_as_sizes_every_task_has_every_size(regimes):
    sizes = regimes.suites[STEPS]["finetune"]["sizes"]
    found = [regimes.rotated_sizes(STEPS, seed) for seed in range(len(sizes))]
    assert all(Counter(of_seed.values()) == Counter(2 * sizes) for of_seed in found), "two tasks a size"
    assert all({of_seed[task] for of_seed in found} == {*sizes} for task in regimes.task_ids(STEPS))
    assert found[0] == regimes.rotated_sizes(STEPS, len(sizes))


@pytest.mark.parametrize("suite", REGIMES["suites"])
def test_an_expert_is_trained_with_settings_of_its_own(suite, regimes):
    for seed in REGIMES["seeds"]:
        for task in regimes.task_ids(suite):
            assert regimes.training(suite, task, seed).keys() == {*KEYS, "examples"}


def test_equal_epochs_are_steps_by_the_size(regimes):
    found = [regimes.training(EPOCHS, task, 0) for task in regimes.task_ids(EPOCHS)]
    assert {each["steps"] * each["batch_size"] / each["examples"] for each in found} == {2.0}
    assert max(each["examples"] for each in found) == 100 * min(each["examples"] for each in found)


def test_another_expert_is_undertrained_with_every_seed(regimes):
    short = []
    for seed in range(6):
        steps = {task: regimes.training(SHORT, task, seed)["steps"] for task in regimes.task_ids(SHORT)}
        assert sorted(steps.values()) == [30, 300, 300, 300, 300, 300]
        short.append(min(steps, key=steps.__getitem__))
    assert sorted(short) == sorted(regimes.task_ids(SHORT))


def test_the_regimes_share_their_data_with_all_test_examples(regimes):
    assert {regimes.data(suite) for suite in REGIMES["suites"]} == {"text_whole"}
    assert all(regimes.splits(suite, "news20")["test"] == 10_000 for suite in REGIMES["suites"])
    assert shipped().splits("text", "news20")["test"] == 300


def test_an_empty_key_takes_away_what_a_suite_extends(regimes):
    assert "premise" in shipped().suites["text"] and not any("premise" in record for record in regimes.suites.values())


def test_one_model_of_all_tasks_is_no_reference_of_experts_that_change_with_the_seed():
    found = Experiment({**shipped().config, **REGIMES, "methods": ["multitask", "weight_averaging"]}, ROOT)
    assert all("with every seed" in found.skipped_methods(suite)["multitask"] for suite in REGIMES["suites"])


def test_the_report_says_how_long_experts_were_trained(regimes):
    told = {suite: " ".join(recipe(regimes.suites[suite]["finetune"])) for suite in REGIMES["suites"]}
    assert "300 steps of 8 examples, 2,400 in all. Training sets have 150 or 600 or 2,400 examples; they go round" in told[STEPS]
    assert "2 epochs in batches of 8 examples. Training sets have 24 or 240 or 2,400" in told[EPOCHS]
    assert "takes 10 % of the steps only" in told[SHORT] and "go round" not in told[SHORT]
    assert "has not seen all of them" in " ".join(recipe(shipped().suites["text"]["finetune"]))
    assert not any("has not seen" in text for text in told.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 2}, "finetune"),  # beside steps
        ({"steps": None, "epochs": 2}, "finetune"),  # without sizes
        ({"sizes": [1]}, "sizes"),
        ({"undertrained": 1.5}, "undertrained"),
    ],
)
def test_a_length_that_is_not_one_is_refused(change, message, tmp_path):
    import shutil

    import yaml

    shutil.copytree(ROOT / "config", tmp_path / "config")
    (tmp_path / "workflow").symlink_to(ROOT / "workflow")
    path = tmp_path / "config/suites/text.yaml"
    record = read_yaml(path)
    record["finetune"] = {key: value for key, value in {**record["finetune"], **change}.items() if value is not None}
    path.write_text(yaml.safe_dump(record))
    with pytest.raises(UserError) as error:
        Experiment(dict(shipped().config), tmp_path)
    assert "config/suites/text.yaml" in str(error.value) and message in str(error.value)
