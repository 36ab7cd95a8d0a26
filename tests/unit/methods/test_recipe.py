"""Every shipped method_spec binds; a misspelt one says what was meant."""

import pytest
from models import method_specs, shipped

from nan_merge.core.errors import UserError
from nan_merge.methods import recipe
from nan_merge.methods.recipe import STAGES, bind, operator_of, requirements


@pytest.mark.parametrize("method", method_specs())
def test_every_shipped_method_binds(method):
    bound = bind(method_specs()[method], method)
    assert bound.requirements == shipped().requirements(method)


def test_what_a_sentence_leaves_out_is_plain_averaging():
    bound = bind({})
    found = bound.estimate({"experts": ["a", "b"], "tensors": {"w": {"task_vector": [1.0, 4.0]}}})
    assert found.rows == {"model": [0.5, 0.5]}
    assert bound.combine([1.0, 3.0], [0.5, 0.5], None) == 2.0
    assert bound.postprocess(2.0, [1.0, 3.0], None) == 2.0
    assert bound.is_linear and not bound.whole
    assert not bound.requirements


def test_every_default_is_a_word():
    assert recipe.DEFAULTS.keys() == STAGES.keys()
    for stage, operator in recipe.DEFAULTS.items():
        assert operator in STAGES[stage]


def test_what_a_trim_asks_for_is_known_beforehand():
    assert bind({"preprocess": "trim"}).requirements == {"thresholds": {"density": 0.2, "scope": "model"}}
    assert requirements({"preprocess": {"trim": {"density": 0.4, "scope": "tensor"}}}) == {
        "thresholds": {"density": 0.4, "scope": "tensor"}
    }
    assert not requirements({"preprocess": {"drop": {"rate": 0.4}}})


def test_words_are_given_by_name_or_with_hyper_parameters():
    assert operator_of("nan", "coefficients") == ("nan", {})
    assert operator_of({"nan": None}, "coefficients") == ("nan", {})
    assert operator_of({"nan": {"scope": "layer"}}, "coefficients") == ("nan", {"scope": "layer"})


MISTAKES = {
    "a slot": ({"combined": "weighted_sum"}, "method 'm': no stage 'combined'; did you mean 'combine'?"),
    "a foreign slot": (
        {"zzz": "nan"},
        "no stage 'zzz'; known are ['coefficients', 'combine', 'control', 'postprocess', 'preprocess']",
    ),
    "a word": ({"combine": "disjoint_mea"}, "method 'm': combine has no operator 'disjoint_mea'; did you mean 'disjoint_mean'?"),
    "a foreign word": (
        {"control": "zzz"},
        "control has no operator 'zzz'; known are ['kept', 'permuted', 'uniform_matched']",
    ),
    "a hyper-parameter": (
        {"preprocess": {"trim": {"desnity": 0.1}}},
        "method 'm': preprocess 'trim' takes ['density', 'scope'], not 'desnity'; did you mean 'density'?",
    ),
    "a hyper-parameter of another word": ({"preprocess": {"trim": {"rate": 0.1}}}, "['density', 'scope'], not 'rate'"),
    "a positional argument": ({"preprocess": {"trim": {"tau": 0.1}}}, "'trim' takes ['density', 'scope'], not 'tau'"),
    "a norm of nothing": ({"coefficients": {"nan": {"norm": "weights"}}}, "not 'norm'; did you mean 'norm_of'?"),
    "two words": ({"combine": {"weighted_sum": {}, "disjoint_sum": {}}}, "combine takes one operator"),
    "no word": ({"combine": {}}, "combine takes one operator, or one operator with its hyper-parameters; found {}"),
    "a list": ({"combine": ["weighted_sum"]}, "combine takes one operator"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_says_what_was_meant(mistake):
    method_spec, message = MISTAKES[mistake]
    with pytest.raises(UserError) as error:
        bind(method_spec, "m")
    assert message in str(error.value)
