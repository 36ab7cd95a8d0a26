"""Random subsets of the experts: distinct, the same each time, the first ones the same for any number of draws."""

import shutil
from collections import Counter
from math import comb

import pytest
import yaml
from models import ROOT, shipped

from experiment.experiment import Experiment
from experiment.parts import ConfigParts
from experiment.subsets import check_subsets, drawn, merging, parts, subsets
from nan_merge.catalogue.files import read_yaml
from nan_merge.core.errors import UserError

EXPERTS = list("abcdefgh")
STUDY = read_yaml(ROOT / "config/study/subsets.yaml")
ASKED = {"sizes": [2, 6], "draws": 3}


def read(**overlay):
    config = {**shipped().config, "methods": STUDY["methods"], "subsets": ASKED, **overlay}
    return Experiment(config, ROOT, ConfigParts({"mine.yaml": config}))


@pytest.mark.parametrize("size", [2, 5, 8])
def test_subsets_are_distinct_of_their_size_and_in_the_order_of_the_experts(size):
    found = drawn(EXPERTS, size, 12, seed=0)
    assert len({frozenset(chosen) for chosen in found}) == len(found) == min(12, comb(8, size))
    assert all(len(chosen) == size and chosen == sorted(chosen) for chosen in found)


def test_subsets_are_all_there_are_where_fewer_exist():
    assert {frozenset(chosen) for chosen in drawn(EXPERTS, 7, 1000, seed=0)} == {frozenset(EXPERTS) - {each} for each in EXPERTS}
    assert drawn(EXPERTS, 9, 3, seed=0) == [], "fewer experts than that are there"


def test_more_draws_keep_the_first_ones_and_another_seed_draws_others():
    many = drawn(EXPERTS, 3, 40, seed=1)
    assert drawn(EXPERTS, 3, 5, seed=1) == many[:5] and drawn(EXPERTS, 3, 40, seed=2) != many
    assert [{*chosen} for chosen in drawn(EXPERTS[::-1], 3, 5, seed=1)] == [{*chosen} for chosen in many[:5]]
    assert drawn(["news20", "reuters8", "movie", "tweets", "authors", "crowd"], 2, 2, seed=0) == [
        ["news20", "authors"], ["news20", "movie"]]  # fmt: skip


def test_every_expert_is_drawn_about_as_often():
    counts = Counter(expert for seed in range(400) for chosen in drawn(EXPERTS, 2, 1, seed) for expert in chosen)
    assert {*counts} == {*EXPERTS} and all(abs(count - 100) < 4 * (400 * 1 / 4 * 3 / 4) ** 0.5 for count in counts.values())


def test_the_merges_of_all_experts_are_those_of_the_suite():
    found = read()
    assert list(subsets(found, "text")) == ["2-0", "2-1", "2-2", "6-0"] and list(parts(found, "text")) == ["2-0", "2-1", "2-2"]
    assert subsets(found, "text")["6-0"] == found.experts("text")
    assert subsets(read(suites=["text", "text_typos_mild"]), "text_typos_mild") == {}, "its owner has them"
    assert subsets(shipped(), "text") == {}


def test_a_subset_is_merged_by_what_needs_nothing_of_the_other_experts():
    others = ["task_arithmetic_tuned", "adamerging_task", "emr", "regmean_plus", "dare_draws", "slerp"]
    found = read(methods=["individual", *others, "ties", "ties+nan_delta", "fisher", "weight_averaging+data_size"])
    kept = ["ties", "ties+nan_delta", "fisher", "weight_averaging+data_size"]
    assert merging(found, "text", 2) == ["slerp", *kept], "SLERP merges two experts"
    assert merging(found, "text", 3) == kept
    assert "slerp" in found.skipped_methods("text")


def test_the_shipped_overlay_draws_five_subsets_of_each_size():
    found = Experiment({**shipped().config, **STUDY}, ROOT)
    counts = Counter(len(chosen) for chosen in subsets(found, "text").values())
    assert counts == {2: 5, 3: 5, 4: 5, 5: 5, 6: 1} and len(merging(found, "text", 2)) == 10


MISTAKES = {
    "one expert": ({"subsets": {"sizes": [1], "draws": 1}}, "mine.yaml: subsets.sizes.0: expected a whole number of at least 2"),
    "too many experts": (
        {"subsets": {"sizes": [2, 7], "draws": 1}},
        "mine.yaml: subsets: sizes: expected at most 6, the number of experts of 'text'; found 7",
    ),
    "no draws": ({"subsets": {"sizes": [2], "draws": 0}}, "mine.yaml: subsets.draws: expected a whole number of at least 1"),
    "draws are missing": ({"subsets": {"sizes": [2]}}, "mine.yaml: subsets: the key 'draws' is missing"),
    "an unknown key": ({"subsets": {**ASKED, "size": 2}}, "unknown key 'size'; did you mean 'sizes'?"),
    "experts of no task": (
        {"suites": ["text", "llama2_13b_wizard"]},
        "mine.yaml: subsets: the experts of 'llama2_13b_wizard' belong to no task, so there are no individual models",
    ),
    "another metric": ({"suites": ["roberta_base_8"]}, "mine.yaml: subsets: task 'cola' of 'roberta_base_8' is not scored by"),
    "no individual models": ({"methods": ["ties"]}, "mine.yaml: subsets: accuracies are divided by those of the individual"),
    "no suite": ({"suites": []}, "mine.yaml: subsets: no suite of the run makes merges; name one (`suites:`)"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_with_the_file_and_the_key(mistake):
    change, message = MISTAKES[mistake]
    with pytest.raises(UserError) as error:
        read(**change)
    assert message in str(error.value)


def test_benchmarks_of_a_harness_are_refused(monkeypatch):
    found = read()
    monkeypatch.setattr(found, "is_benchmarked", lambda suite: True)
    with pytest.raises(UserError, match=r"mine.yaml: subsets: the tasks of 'text' are benchmarks .*; run 'text' without the key"):
        check_subsets(found)


@pytest.fixture
def edited(tmp_path):
    """Return a function that adds methods, changes a suite and reads the experiment again."""
    shutil.copytree(ROOT / "config", tmp_path / "config")
    (tmp_path / "workflow").symlink_to(ROOT / "workflow")

    def change(suite, methods, added=(), **keys):
        for file, new in (("methods.yaml", dict(added)), (f"suites/{suite}.yaml", keys)):
            path = tmp_path / "config" / file
            path.write_text(yaml.safe_dump({**read_yaml(path), **new}))
        config = {**shipped().config, "suites": [suite], "methods": ["individual", *methods], "tables": [], "figures": []}
        config["subsets"] = {"sizes": [2], "draws": 1}
        return Experiment(config, tmp_path, ConfigParts({"mine.yaml": config}))

    return change


def test_units_that_were_matched_over_all_networks_are_not_those_of_a_subset(edited):
    tasks = ["fashion_first", "fashion_last", "mnist_hub"]
    found = edited("from_scratch", ["weight_averaging", "rebasin", "zipit"], tasks=tasks, groups={"all": tasks})
    assert list(parts(found, "from_scratch")) == ["2-0"] and merging(found, "from_scratch", 2) == ["weight_averaging"]
    assert "zipit" in found.run("from_scratch")


def test_numbers_that_are_stated_for_each_expert_are_not_those_of_a_subset(edited):
    experts = ["news20", "reuters8", "movie", "tweets", "authors", "crowd"]
    own = {"extends": "task_arithmetic", "label": "Own", "summary": "own coefficients"}
    added = {"own": {**own, "coefficients": {"given": {"values": dict.fromkeys(experts, 0.3)}}}}
    added |= {"trimmed": {**own, "preprocess": {"trim": {"density": dict.fromkeys(experts, 0.3), "scope": "tensor"}}}}
    added |= {"others": {**own, "coefficients": {"given": {"values": {"math": 0.3, "code": 0.5}}}}}
    found = edited("text", ["own", "own+nan_delta", "trimmed", "others"], added)
    assert found.merges("text") == ["own", "own+nan_delta", "trimmed"] and merging(found, "text", 2) == ["own+nan_delta"]
    reason = f"its `values` has numbers for code, math, and the experts are {', '.join(experts)}"
    assert found.skipped_methods("text")["others"] == reason


def test_classes_that_are_told_apart_over_all_tasks_are_refused(edited):
    with pytest.raises(UserError, match=r"mine.yaml: subsets: the classes of all tasks of 'from_scratch' are told apart"):
        edited("from_scratch", ["zipit"], joint=True)
