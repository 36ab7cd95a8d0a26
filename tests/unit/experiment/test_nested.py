"""Nested merges: what each merges, which are rows of which suite, what they are compared with, and what is refused."""

import shutil

import pytest
import yaml
from models import ROOT, shipped

from experiment import experiment
from experiment.experiment import Experiment
from nan_merge.catalogue.files import read_yaml
from nan_merge.core.errors import UserError

METHODS = ["pretrained", "individual", "weight_averaging", "task_arithmetic", "task_arithmetic+nan_delta"]
NESTED = {
    "reviews": {"method": "ties+nan_delta", "experts": ["movie", "crowd"]},
    "whole": {"method": "task_arithmetic+nan_delta", "experts": ["reviews", "news20", "movie"], "label": "In two steps"},
}


@pytest.fixture
def read(tmp_path):
    """Return a function that reads the shipped config with `nested` in the suite `text`."""
    shutil.copytree(ROOT / "config", tmp_path / "config")
    (tmp_path / "workflow").symlink_to(ROOT / "workflow")

    given = {"given": {"values": {"math": 0.3, "code": 0.5}}}
    own = {"own": {"extends": "task_arithmetic", "label": "Own", "summary": "own numbers", "coefficients": given}}
    methods_file = tmp_path / "config/methods.yaml"
    methods_file.write_text(yaml.safe_dump({**read_yaml(methods_file), **own}))

    def change(nested, *suites, methods=METHODS, of="text", **more):
        file = tmp_path / f"config/suites/{of}.yaml"
        file.write_text(yaml.safe_dump({**read_yaml(file), "nested": nested}))
        config = {**shipped().config, "suites": list(suites or [of]), "methods": list(methods), "tables": [], "figures": []}
        return Experiment({**config, **more}, tmp_path)

    return change


def test_a_nested_merge_has_its_method_and_its_experts_and_the_last_is_a_row(read):
    found = read(NESTED)
    assert found.run("text") == [*METHODS, "whole"] and found.merges("text") == [*METHODS[2:], "whole"]
    assert found.merged_experts("text", "whole") == ["reviews", "news20", "movie"]
    assert found.merged_experts("text", "task_arithmetic") == found.experts("text") == found.task_ids("text")
    stages = ("preprocess", "coefficients", "combine")
    for name, method in (("reviews", "ties+nan_delta"), ("whole", "task_arithmetic+nan_delta")):
        alone = found.catalogue.members(method)[method]
        assert found.method_spec(name, *stages) == {stage: alone[stage] for stage in stages if stage in alone}
    assert found.methods["whole"]["label"] == "In two steps"
    label = "reviews: TIES (20 %, sum, λ = 0.3) + NAN (delta) of movie, crowd"
    assert found.methods["reviews"]["label"] == label
    assert "density_0.2-scope_model" in found.needing(found.thresholds), "of a merge that is no row"


def test_a_nested_merge_that_methods_lists_is_a_row_at_its_place(read):
    found = read(NESTED, methods=["pretrained", "reviews", "weight_averaging"])
    assert found.run("text") == ["pretrained", "reviews", "weight_averaging", "whole"]


def test_a_nested_merge_is_compared_with_its_method_over_all_experts_at_once(read):
    pairs = {(pair["method"], pair["against"], pair["kind"]) for pair in read(NESTED).pairs()}
    assert ("whole", "task_arithmetic+nan_delta", "nested") in pairs and ("whole", "weight_averaging", "order") in pairs
    assert ("individual", "whole", "order") in pairs


def test_rows_are_of_the_suites_that_have_them_and_of_those_that_score_their_merges(read):
    found = read(NESTED, "text", "vision", "text_typos_mild", "text_unseen")
    assert [suite for suite in found.suites if "whole" in found.run(suite)] == ["text", "text_typos_mild", "text_unseen"]
    assert "whole" not in found.skipped_methods("vision") and "whole" in found.absent("vision")


def test_an_expert_that_goes_in_twice_is_said(read):
    (note,) = read(NESTED).nested.notes()
    assert note == "text: nested: whole: movie is in it more than once"
    assert read({"reviews": NESTED["reviews"]}).nested.notes() == []


def test_a_merge_of_an_expert_whose_data_cannot_be_had_is_skipped_and_what_it_goes_into(read, monkeypatch, tmp_path):
    (asset,) = read_yaml(ROOT / "config/tasks.yaml")["crowd"]["assets"]
    monkeypatch.setattr(experiment, "unavailable", lambda specs: {name: "gone" for name in specs if name == asset})
    monkeypatch.chdir(tmp_path)  # where nothing is fetched yet
    found = read(NESTED)
    assert found.skipped_methods("text")["whole"] == "the data of its expert crowd cannot be had here"
    assert "whole" not in found.run("text")


def test_models_of_the_user_have_nested_merges(read, tmp_path):
    folders = {name: str(tmp_path / name) for name in ("base", "a", "b", "c")}
    for folder in folders.values():
        (tmp_path / folder).mkdir()
    nested = {"ab": {"method": "slerp", "experts": ["a", "b"]}, "abc": {"method": "slerp", "experts": ["ab", "c"]}}
    mine = {"base": folders.pop("base"), "experts": folders, "nested": nested}
    found = read({"reviews": NESTED["reviews"]}, suites=[], models={"mine": mine}, methods=["task_arithmetic", "slerp"])
    assert found.merges("mine") == ["task_arithmetic", "abc"], "SLERP itself takes two"
    assert found.merged_experts("mine", "abc") == ["ab", "c"]


def test_a_nested_merge_of_adapters_has_the_space_of_its_method(read, tmp_path):
    mine = {"base": str(tmp_path), "experts": dict.fromkeys("abc", str(tmp_path))}
    nested = {"ab": {"method": "ties+core", "experts": ["a", "b"]}, "abc": {"method": "ties", "experts": ["ab", "c"]}}

    def of(nested):
        own = {"mine": {**mine, "nested": nested}}
        return read({"reviews": NESTED["reviews"]}, suites=[], models=own, methods=["task_arithmetic"])

    found = of(nested)
    assert found.method_spec("ab", "space") == {"space": "core"} and found.method_spec("abc", "space") == {}
    with pytest.raises(UserError, match=r"abc: method: 'ties\+core' needs LoRA adapters, and 'ab' is a whole model"):
        of({**nested, "abc": {"method": "ties+core", "experts": ["ab", "c"]}})


def test_a_variant_on_a_nested_merge_is_refused(read):
    with pytest.raises(UserError, match=r"methods: 'reviews\+tuned': reviews is a nested merge, and takes no variants; put them"):
        read(NESTED, methods=["reviews+tuned"])


MISTAKES = {
    "a name of an expert": ({"movie": NESTED["reviews"]}, "movie: an expert of the suite has that name; choose another"),
    "a name of a method": ({"ties": NESTED["reviews"]}, "ties: a method has that name; choose another"),
    "an unknown expert": (
        {"pair": {"method": "ties", "experts": ["movie", "crwd"]}},
        "pair: experts: unknown 'crwd'; did you mean 'crowd'?",
    ),
    "an unknown nested merge": (
        {"pair": NESTED["reviews"], "all": {"method": "ties", "experts": ["pear", "news20"]}},
        "all: experts: unknown 'pear'; did you mean 'pair'?",
    ),
    "an unknown method": (
        {"pair": {"method": "tis", "experts": ["movie", "crowd"]}},
        "pair: method: unknown 'tis'; did you mean 'ties'?",
    ),
    "a circle": (
        {"a": {"method": "ties", "experts": ["b", "movie"]}, "b": {"method": "ties", "experts": ["a", "crowd"]}},
        "a -> b -> a: nested merges are circular; leave one out",
    ),
    "itself": ({"a": {"method": "ties", "experts": ["a", "movie"]}}, "a -> a: nested merges are circular"),
    "one expert": (
        {"a": {"method": "ties", "experts": ["movie"]}},
        "nested.a.experts: expected at least 2 of them (names of experts or of other nested merges), found movie",
    ),
    "an expert twice": ({"a": {"method": "ties", "experts": ["movie", "movie"]}}, "'movie' stands 2 times"),
    "a method for two": (
        {"a": {"method": "slerp", "experts": ["movie", "crowd", "news20"]}},
        "a: method: 'slerp' does not fit: slerp merges 2 experts, here are 3; choose another",
    ),
    "a reference": ({"a": {"method": "pretrained", "experts": ["movie", "crowd"]}}, "'pretrained' merges nothing"),
    "a method with calibration": (
        {"a": {"method": "fisher", "experts": ["movie", "crowd"]}},
        "'fisher' needs data of every model that it merges, and a merge has none of its own; choose another",
    ),
    "a learned method": ({"a": {"method": "adamerging_task", "experts": ["movie", "crowd"]}}, "learns on data of every model"),
    "a tuned method": ({"a": {"method": "ties_tuned", "experts": ["movie", "crowd"]}}, "'ties_tuned' is tuned on validation"),
    "sizes of data": (
        {"a": {"method": "ties+data_size", "experts": ["movie", "crowd"]}},
        "'ties+data_size' reads numbers of training examples",
    ),
    "a model for each task": ({"a": {"method": "emr", "experts": ["movie", "crowd"]}}, "'emr' makes a model for each task"),
    "several draws": (
        {"a": {"method": "dare_draws", "experts": ["movie", "crowd"]}},
        "a: method: 'dare_draws' stands for 5 methods; choose one, such as dare_draws_1",
    ),
    "numbers for other experts": (
        {"a": {"method": "own", "experts": ["movie", "crowd"]}},
        "'own' does not fit: its `values` has numbers for code, math, and the experts are movie, crowd; choose another",
    ),
    "a space for adapters": (
        {"a": {"method": "ties+core", "experts": ["movie", "crowd"]}},
        "'ties+core' needs LoRA adapters, and a suite has whole models, into which adapters are folded; choose another",
    ),
    "no method": ({"a": {"experts": ["movie", "crowd"]}}, "nested.a: the key 'method' is missing"),
    "a misspelt key": ({"a": {"method": "ties", "expert": ["movie", "crowd"]}}, "unknown key 'expert'; did you mean 'experts'?"),
    "nothing": ({}, "nested: expected at least 1 of them"),
    "a name with a capital": ({"A": NESTED["reviews"]}, "a name: lower-case letters, digits and _, a letter first"),
    "the name of the base": ({"base": NESTED["reviews"]}, "not `base`, not `multitask`"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_said_with_its_place(case, read):
    nested, message = MISTAKES[case]
    with pytest.raises(UserError) as error:
        read(nested)
    assert message in str(error.value) and str(error.value).startswith("config/suites/text.yaml: nested"), error.value


def test_two_suites_have_no_different_nested_merges_of_one_name(read):
    read(NESTED)
    images = {"whole": {"method": "ties", "experts": ["fashion", "mnist"]}}
    with pytest.raises(UserError, match=r"vision.yaml: nested: whole: another suite of the run has another nested merge"):
        read(images, "text", "vision", of="vision")
