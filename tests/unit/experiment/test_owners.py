"""A suite with `merges` scores the models of another one: it has none of its own, and no file makes others of them."""

import shutil

import pytest
import yaml
from models import ROOT, shipped

from experiment.experiment import Experiment
from nan_merge.catalogue.files import read_yaml
from nan_merge.core.errors import UserError

METHODS = ["pretrained", "individual", "weight_averaging", "task_arithmetic", "task_arithmetic_tuned", "emr", "fisher_normalised",
           "task_arithmetic+nan_delta"]  # fmt: skip
ROBUSTNESS = read_yaml(ROOT / "config/study/robustness.yaml")
PREMISE = {"task": "movie", "sizes": [2, 4], "steps": 1, "epochs": 1}
TYPOS = {"kind": "typos", "strength": 0.1}
CORRUPTED = ("text_typos_mild", "text_typos_strong", "vision_noise_mild", "vision_noise_strong", "vision_blur_strong")


def read(*suites, root=ROOT):
    return Experiment({**shipped().config, "suites": list(suites), "methods": METHODS}, root)


@pytest.fixture
def folder(tmp_path):
    """A folder with the shipped config, to be edited."""
    shutil.copytree(ROOT / "config", tmp_path / "config")
    (tmp_path / "workflow").symlink_to(ROOT / "workflow")
    return tmp_path


def write(folder, name, record):
    (folder / f"config/suites/{name}.yaml").write_text(yaml.safe_dump(record))
    return folder


@pytest.mark.parametrize("suite", CORRUPTED)
def test_a_corrupted_suite_has_the_models_and_heads_of_its_owner_and_data_of_its_own(suite):
    owner = suite.partition("_")[0]
    found = read(suite, owner)
    assert found.owner(suite) == owner == found.checkpoints(suite) and found.data(suite) == suite != found.data(owner)
    assert found.heads(suite) == found.heads(owner) and found.experts(suite) == found.task_ids(suite) == found.task_ids(owner)
    assert found.groups(suite) == found.groups(owner) and found.run(suite) == found.run(owner)
    assert found.form(suite) == {**found.form(owner), "corrupt": found.suites[suite]["corrupt"]}
    assert found.premise_runs(owner) and not found.premise_runs(suite)
    assert found.candidates_in(owner) and not found.candidates_in(suite), "what is chosen is chosen by the owner"
    assert {*found.used_assets()} == {*read(owner).used_assets()}


def test_unseen_tasks_share_clean_data_and_have_the_experts_as_rows_in_place_of_individual():
    found = read("text", "text_unseen")
    assert found.data("text_unseen") == "text" and found.experts("text_unseen") == found.task_ids("text")
    run, rows = found.run("text_unseen"), [f"expert_{task}" for task in found.task_ids("text")]
    assert run[:7] == ["pretrained", *rows] and "individual" not in run
    assert found.run("text") == read("text").run("text"), "the owner's rows are as without it"
    assert (
        "no expert" in found.skipped_methods("text_unseen")["emr"] and "fisher_normalised" in run and "emr" in found.run("text")
    )


def test_on_unseen_tasks_every_merge_is_compared_with_the_base():
    found = read("text", "text_unseen", "text_typos_mild")
    pairs = [pair for pair in found.pairs() if pair["kind"] == "forgetting"]
    assert {(pair["suite"], pair["against"]) for pair in pairs} == {("text_unseen", "pretrained")}
    assert [pair["method"] for pair in pairs] == found.merges("text_unseen")


def test_a_task_of_some_expert_has_its_individual_model_and_another_the_base(folder):
    write(folder, "both", {"merges": "text", "label": "Both", "tasks": ["news20", "amazon"]})
    found = read("text", "both", root=folder)
    assert [found.own_expert("both", task) for task in found.task_ids("both")] == ["news20", None]
    assert "individual" in found.run("both") and found.groups("both") == {"news20": ["news20"], "amazon": ["amazon"]}
    part = write(folder, "part", {"merges": "text", "label": "Part", "tasks": ["news20", "movie"]})
    alone = read("text", "part", root=part)
    assert alone.has_experts_of_tasks("part") and len(alone.experts("part")) == 6 and "emr" in alone.run("part")


def test_experts_with_names_of_their_own_are_those_of_the_owner(folder):
    write(folder, "other", {"merges": "smollm", "label": "Other", "tasks": ["units", "plural"]})
    found = read("smollm", "other", root=folder)
    assert found.experts("other") == ["syntax", "words", "requests"]
    assert [found.own_expert("other", task) for task in ("units", "plural")] == [None, "words"] and "individual" in found.run(
        "other"
    )
    unseen = read("smollm", "other", root=write(folder, "other", {"merges": "smollm", "label": "Other", "tasks": ["units"]}))
    assert "individual" not in unseen.run("other") and "expert_words" in unseen.run("other")


def test_the_shipped_overlay_scores_three_suites_with_the_merges_of_one():
    found = Experiment({**shipped().config, **ROBUSTNESS}, ROOT)
    assert {found.owner(suite) for suite in found.suites} == {"text"} and len(found.suites) == 4
    assert {pair["suite"] for pair in found.pairs() if pair["kind"] == "host"} == {*found.suites}


MISTAKES = {  # what is written beside `merges: text`, and what is said
    "unknown owner": ({"merges": "texts"}, "merges: unknown 'texts'; did you mean 'text'"),
    "itself": ({"merges": "mine"}, "`extends` and `merges` are circular"),
    "an owner without merges": ({"merges": "text_unseen"}, "merges: expected a suite that makes merges, but 'text_unseen'"),
    "both parents": ({"extends": "vision"}, "`extends` and `merges` exclude each other"),
    "no label": ({"label": None}, "the key 'label' is missing"),
    "a part of another recipe": ({"finetune": {"steps": 3}}, "finetune: the key 'learning_rate' is missing"),
    "another base": ({"base": "gpt2"}, "base: the suite scores the merges of 'text' (`merges:`), whose file says"),
    "other tensors": ({"merge": {}}, "merge: the suite scores the merges of 'text'"),
    "another form": ({"input": {"tokenizer": "gpt2", "length": 9}}, "input: the suite scores the merges of 'text'"),
    "a premise": ({"premise": PREMISE}, "premise: the suite scores the merges of 'text'"),
    "an unknown task": ({"tasks": ["new20"]}, "tasks: unknown 'new20'; did you mean 'news20'"),
    "a benchmark": ({"tasks": ["mmlu"]}, "tasks: they are benchmarks of a harness, and those of 'text'"),
    "noise in texts": ({"corrupt": {"kind": "jpeg", "strength": 1}}, "jpeg is for prepared pictures, and the tasks"),
    "too many typos": ({"corrupt": {**TYPOS, "strength": 2}}, "strength: expected a share of words, at most 1, found 2"),
    "no typos": ({"corrupt": {**TYPOS, "strength": 0}}, "strength: expected a number above 0"),
    "no strength": ({"corrupt": {"kind": "typos"}}, "corrupt: the key 'strength' is missing"),
    "half a severity": ({"merges": "vision", "corrupt": {"kind": "jpeg", "strength": 2.5}}, "1, 2, 3, 4 or 5, found 2.5"),
    "a misspelt kind": ({"corrupt": {**TYPOS, "kind": "typo"}}, "unknown value 'typo'; did you mean 'typos'"),
    "the data of another": ({"data": "text", "corrupt": TYPOS}, "data: 'text' is shared with suite 'text', but `corrupt:` is"),
    "a harness": ({"merges": "smollm", "corrupt": TYPOS}, "and the tasks are benchmarks, whose inputs a harness reads"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_with_the_file_and_the_key(mistake, folder):
    change, message = MISTAKES[mistake]
    record = {"merges": "text", "label": "Mine", **change}
    write(folder, "mine", {key: value for key, value in record.items() if value is not None})
    with pytest.raises(UserError) as error:
        read("text", "vision", "smollm", "mine", root=folder)
    assert str(error.value).startswith("config/suites/mine.yaml: ") and message in str(error.value)


def test_a_suite_is_scored_beside_its_owner():
    with pytest.raises(UserError) as error:
        read("vision", "text_typos_mild")
    found = "merges: the merges of 'text' are scored, and that suite is not in the run; name 'text' beside 'text_typos_mild'"
    assert f"config/suites/text_typos_mild.yaml: {found}" in str(error.value)


def test_only_a_suite_that_scores_the_merges_of_another_is_corrupted(folder):
    record = read_yaml(folder / "config/suites/text.yaml")
    write(folder, "text", {**record, "corrupt": {"kind": "typos", "strength": 0.1}})
    with pytest.raises(UserError, match=r"text.yaml: corrupt: only of a suite .*; write `merges: text` in a file of its own"):
        read("text", root=folder)


def test_heads_of_experts_are_for_their_own_tasks(folder):
    write(folder, "mine", {"merges": "gpt2_7", "label": "Mine", "tasks": ["sst2", "stsb"]})
    with pytest.raises(UserError, match=r"mine.yaml: tasks: with `head: expert` .* 'stsb' is no task of 'gpt2_7'; remove it"):
        read("gpt2_7", "mine", root=folder)
