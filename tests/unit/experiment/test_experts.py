"""Experts that belong to no task: names, rows, pairs and what is skipped; and suites whose tasks a harness scores."""

import pytest
from models import ROOT, shipped

from experiment.experiment import Experiment
from nan_merge.catalogue.files import read_yaml
from nan_merge.core.errors import UserError

METHODS = [
    "pretrained",
    "individual",
    "weight_averaging",
    "task_arithmetic",
    "task_arithmetic_tuned",
    "task_arithmetic+nan_delta",
    "slerp",
    "task_arithmetic+nan_delta+permuted",
    "emr",
    "fisher",
    "adamerging_task",
    "weight_averaging+data_size",
]


def read(*suites, **more):
    return Experiment({**shipped().config, "suites": list(suites), "methods": METHODS, **more}, ROOT)


def edited(tmp_path, change, suite="llama2_13b_wizard"):
    """Read the shipped config with a suite that `change` has edited."""
    import shutil

    import yaml

    shutil.copytree(ROOT / "config", tmp_path / "config")
    (tmp_path / "workflow").symlink_to(ROOT / "workflow")
    path = tmp_path / f"config/suites/{suite}.yaml"
    record = read_yaml(path)
    change(record)
    path.write_text(yaml.safe_dump(record))
    return Experiment({**shipped().config, "suites": [suite], "methods": METHODS}, tmp_path)


def test_individual_is_a_row_an_expert_where_experts_belong_to_no_task():
    found = read("llama2_13b_wizard")
    assert found.experts("llama2_13b_wizard") == ["wizardlm", "wizardmath"]
    assert found.run("llama2_13b_wizard")[:4] == ["pretrained", "expert_wizardlm", "expert_wizardmath", "weight_averaging"]
    assert found.methods["expert_wizardlm"]["label"] == "Expert: wizardlm"
    uppers = {pair["method"] for pair in found.pairs() if pair["against"] == "task_arithmetic" and pair["kind"] == "order"}
    assert uppers == {"expert_wizardlm", "expert_wizardmath"}
    models, data = ["llama2_13b", "wizardlm_13b", "wizardmath_13b"], ["data_bbh", "data_ceval", "data_gsm8k", "data_mmlu"]
    assert found.used_assets() == [*data, *models]


def test_suites_of_both_kinds_in_one_run_keep_their_own_references():
    found = read("text", "llama2_13b_wizard", "llama3_mergebench")
    alone = read("text")
    assert found.run("text") == alone.run("text") and "individual" in found.run("text")
    assert found.absent("llama3_mergebench") == ["expert_wizardlm", "expert_wizardmath", "individual"]
    assert {"expert_math", "expert_safety"} <= {*found.run("llama3_mergebench")}


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("task_arithmetic_tuned", "benchmarks are for tests only"),
        ("emr", "one task at a time"),
        ("fisher", "the experts belong to no task"),
        ("adamerging_task", "the experts belong to no task"),
        ("weight_averaging+data_size", "not stated for wizardlm, wizardmath"),
    ],
)
def test_a_method_that_needs_data_of_tasks_is_skipped_with_the_reason(method, reason):
    assert reason in read("llama2_13b_wizard").skipped_methods("llama2_13b_wizard")[method]


def test_methods_count_experts_and_not_tasks():
    two, five = read("llama2_13b_wizard"), read("llama3_mergebench")
    assert len(two.task_ids("llama2_13b_wizard")) == 4 and "slerp" in two.run("llama2_13b_wizard")
    assert "here are 5" in five.skipped_methods("llama3_mergebench")["slerp"]
    draws = [method for method in two.run("llama2_13b_wizard") if "permuted" in method]
    assert len(draws) == 1, "two experts have one shuffle"
    assert len([method for method in five.run("llama3_mergebench") if "permuted" in method]) > 1


def test_stated_numbers_of_examples_are_those_of_experts(tmp_path):
    found = edited(tmp_path, lambda suite: suite.update(examples={"wizardlm": 250, "wizardmath": 96}))
    assert found.examples("llama2_13b_wizard") == {"wizardlm": 250, "wizardmath": 96}
    assert "weight_averaging+data_size" in found.run("llama2_13b_wizard")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"experts": {"a": "wizardlm_13", "b": "wizardmath_13b"}}, "unknown 'wizardlm_13'; did you mean 'wizardlm_13b'"),
        ({"experts": {"base": "wizardlm_13b", "wizardmath": "wizardmath_13b"}}, "base"),
        ({"tasks": ["mmlu", "news20"], "groups": {}}, "'mmlu' is a benchmark of a harness, 'news20' is none"),
        ({"text_tower": "minilm_l6"}, "text_tower: its tasks are benchmarks of a harness, which need none"),
        ({"tasks": ["news20"], "groups": {}}, "expected `text_tower` (heads of class prompts) or else `head: expert`"),
    ],
)
def test_a_suite_that_does_not_fit_its_tasks_is_refused(change, message, tmp_path):
    with pytest.raises(UserError) as error:
        edited(tmp_path, lambda suite: suite.update(change))
    assert "config/suites/llama2_13b_wizard.yaml" in str(error.value) and message in str(error.value)


def test_the_suites_of_table_3_share_checkpoints_and_differ_in_how_pictures_are_taken():
    found = read("llava_13b", "llava_13b_next")
    for suite in found.suites:
        assert (
            found.run(suite)[:3] == ["pretrained", "expert_llava16", "expert_math_llava"]
            and found.checkpoints(suite) == "llava_13b"
        )
    assert [found.suites[suite]["vlm"]["pipeline"] for suite in found.suites] == ["llava", "llava_next"]
    assert {"clip_vit_l14_336", "processor_llava", "processor_llava_next", "data_geoqa_answers"} <= {*found.used_assets()}
    leaks = {task: found.tasks[task].get("leaks", {}).get("expert") for task in found.task_ids("llava_13b")}
    assert leaks == {"mathvista": "math_llava", "wemath": None, "ai2d": None, "geoqa": "math_llava"}
    assert len({*found.unlocked(found.used_assets())}) == len(found.used_assets())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"donor": "llava15"}, "vlm: donor: unknown 'llava15'"),
        ({"clip": "clip_vit_l14_33"}, "vlm: clip, processor: unknown 'clip_vit_l14_33'; did you mean 'clip_vit_l14_336'"),
        ({"tower": "donor"}, "vlm: the key 'donor' is missing"),
        ({"pipeline": "llava_next"}, "vlm: the key 'donor' is missing"),
        ({"tower": "both"}, "tower"),
    ],
)
def test_a_mistake_in_how_pictures_are_taken_is_told(change, message, tmp_path):
    with pytest.raises(UserError) as error:
        edited(tmp_path, lambda suite: suite["vlm"].update(change), "llava_13b")
    assert message in str(error.value) and "config/suites/llava_13b.yaml" in str(error.value)


def test_a_model_that_is_converted_is_scored_on_all_tasks(tmp_path):
    with pytest.raises(UserError, match=r"llava_13b.yaml: vlm: .* expected `experts:` by name"):
        edited(tmp_path, lambda suite: suite.update(experts="llava16_{}", tasks=["ai2d"], groups={}), "llava_13b")


@pytest.mark.parametrize("more", [{"parallelize": 2}, {"backend": "vllm"}])
def test_keys_of_benchmarks_need_language_models_on_gpus(more):
    ((key, value),) = more.items()
    assert read("llama2_13b_wizard", scoring={"device": "cuda", **more}).config["scoring"][key] == value
    for device in ("cpu", "cuda:1"):
        with pytest.raises(UserError, match=f"scoring: {key}: {value} needs GPUs, `device: cuda`; found `device: {device}`"):
            read("llama2_13b_wizard", scoring={"device": device, **more})
    with pytest.raises(UserError, match=rf"scoring: {key}: only for language models .* 'text' is no such suite"):
        read("llama2_13b_wizard", "text", scoring={"device": "cuda", **more})
    assert read("text", scoring={"backend": "hf"}), "the default may be written anywhere"


def test_opencompass_scores_the_methods_that_the_config_names():
    suite = "llama2_13b_wizard"
    assert not read(suite).cross_checked(suite), "only if it is asked for"
    asked = read(suite, cross_check=["individual", "pretrained"])
    assert asked.cross_checked(suite) == ["pretrained", "expert_wizardlm", "expert_wizardmath"]
    assert read(suite, cross_check=["task_arithmetic"]).cross_checked(suite) == ["task_arithmetic"]


@pytest.mark.parametrize(
    ("suites", "asked", "message"),
    [
        (["llama2_13b_wizard"], "task_aritmetic", r"cross_check: unknown 'task_aritmetic'; did you mean 'task_arithmetic'"),
        (["text"], "pretrained", r"cross_check: OpenCompass has mmlu, .* and '\w+' of 'text' is none; remove the key"),
        (["llama2_13b_prompts"], "pretrained", r"cross_check: OpenCompass has .* and 'gsm8k_qwen25_math_cot' of .* is none"),
    ],
)
def test_a_check_that_opencompass_cannot_make_is_refused(suites, asked, message):
    with pytest.raises(UserError, match=message):
        read(*suites, cross_check=[asked])
