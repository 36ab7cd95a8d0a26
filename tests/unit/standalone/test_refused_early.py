"""What options and headers tell is refused before a tensor is read, however large the models are."""

import numpy as np
import pytest
from models import family, moved, random_model, save

import nan_merge
from nan_merge.checkpoints.safetensors_file import SafetensorsTensor
from nan_merge.cli import merge as command
from nan_merge.core.errors import UserError
from nan_merge.standalone import documented_merge, sources

REFUSED = {  # method, options, the message
    "SLERP of three": ("slerp", [], "--method slerp: slerp merges 2 experts, here are 3; choose another method"),
    "SLERP put into another method": ("ties+nan_delta", ["--set", "combine=slerp"], "slerp merges 2 experts, here are 3"),
    "sizes of others": (
        "ties+data_size",
        ["--examples", "a=1", "b=2", "x=3"],
        "--examples: expected a number for each of a, b, c",
    ),
    "sizes of others that nothing reads": ("ties+nan_delta", ["--examples", "x=3"], "--examples: expected a number for each of"),
    "statistics that nobody collected": (
        "ties+nan_delta",
        ["--set", "combine=fisher"],
        "--set: an operator needs fisher statistics of data, which only a suite has",
    ),
    "norms of calibration": (
        "ties+nan_delta",
        ["--set", "coefficients.nan.norm_of=calibration"],
        "norm_of: calibration: was not measured",
    ),
    "a model for each task": (
        "ties+nan_delta",
        ["--set", "combine=emr"],
        "emr makes a model for each task; choose another method",
    ),
    "norms of no tensor": ("ties+nan_delta", ["--set", "coefficients.nan.only=nowhere"], "'nowhere' is found in none of the 7"),
    "rates of others": (
        "dare+nan_delta",
        ["--set", "preprocess.drop.rate={a: 0.5, b: 0.5, x: 0.5}"],
        "preprocess: drop: rate: expected a number for each of a, b, c; found a, b, x",
    ),
    "a case that is lacking": (
        "dare+nan_delta",
        ["--set", "preprocess.drop.rate=[{filter: nowhere, value: 0.5}]"],
        "no case of [{'filter': 'nowhere', 'value': 0.5}] fits tensor",
    ),
    "a share that has no model": (
        "ties+nan_delta",
        ["--set", "preprocess.trim.density=[0.1, 0.5]"],
        "preprocess: trim: a density that varies over tensors has no share of the model",
    ),
    "probabilities above one": ("della+nan_delta", ["--set", "preprocess.della.window=0.5"], "take a smaller `window`"),
    "a wide matrix": ("tsv_m+nan_delta", ["--set", "combine.tsv.largest=2"], "expected at most 2 inputs of a matrix"),
    "a wide matrix to rescale": (
        "star+nan_delta",
        ["--set", "preprocess.star.largest=2"],
        "expected at most 2 inputs of a matrix",
    ),
    "a method that mergekit lacks": (
        "wudi",
        ["--export-mergekit", "new.yml"],
        "--export-mergekit: mergekit has no counterpart of 'identity' with 'wudi'",
    ),
    "an election that mergekit lacks": (
        "ties+nan_delta",
        ["--set", "combine.disjoint_sum.elect=unweighted", "--export-mergekit", "new.yml"],
        "--export-mergekit: mergekit elects signs after weighting",
    ),
    "a path that mergekit splits": (
        "ties+nan_delta",
        ["--expert", "a+b", "--export-mergekit", "new.yml"],
        "--export-mergekit: a+b: mergekit splits a path at '+' and '@'",
    ),
}


@pytest.fixture
def sealed(tmp_path, monkeypatch):
    """Write models of which no tensor may be read, and stand beside them."""
    family(tmp_path)
    save(tmp_path / "a+b", moved(random_model(0), 9))

    def read(*_, **__):
        raise AssertionError("a tensor was read")

    monkeypatch.setattr(SafetensorsTensor, "block", read)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def words(method, *more, experts="abc"):
    return ["--base", "base", *(f"--expert={name}" for name in experts), "--method", method, "--output", "out", *more]


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_comes_before_any_tensor_is_read(case, sealed):
    method, more, message = REFUSED[case]
    with pytest.raises(UserError) as error:
        command.main(words(method, *more))
    assert message in str(error.value)
    assert not (sealed / "out").exists() and not (sealed / "new.yml").exists()


def test_models_are_read_where_nothing_is_wrong(sealed):
    with pytest.raises(AssertionError, match="a tensor was read"):
        command.main(words("ties+nan_delta"))


def test_a_card_that_cannot_be_written_is_found_before_any_tensor_is_read(sealed, monkeypatch):
    monkeypatch.setattr(documented_merge, "card", lambda record: record["no such key"])
    with pytest.raises(UserError, match=r"base: its README.md, its configs or its name do not fit a model card"):
        command.main(words("ties+nan_delta"))


@pytest.mark.parametrize("case", ["SLERP of three", "sizes of others", "a method that mergekit lacks"])
def test_what_options_alone_tell_is_refused_before_models_are_fetched(case, tmp_path, monkeypatch):
    method, more, message = REFUSED[case]
    monkeypatch.setattr(sources, "download", lambda repository: pytest.fail(f"{repository} was fetched"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        command.main(words(method, *more, experts=("a=owner/a", "b=owner/b", "c=owner/c")))
    assert message in str(error.value)


def test_state_dicts_are_refused_before_they_are_read():
    base = random_model(0)
    experts = {name: moved(base, seed) | {"logit_scale": np.full((), np.nan, np.float32)} for seed, name in enumerate("abc", 1)}
    with pytest.raises(UserError, match="slerp merges 2 experts, here are 3"):
        nan_merge.merge_state_dicts(base, experts, "slerp")
    with pytest.raises(UserError, match=r"expected a number for each of a, b, c; found \{'x': 1\}"):
        nan_merge.merge_state_dicts(base, experts, "ties+data_size", examples={"x": 1})
