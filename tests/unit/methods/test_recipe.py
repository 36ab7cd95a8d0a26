"""Every shipped method_spec binds; a misspelt one says what was meant."""

import pytest
from models import method_specs, shipped

from nan_merge.core.errors import UserError
from nan_merge.methods.recipe import bind, operator_of, requirements


@pytest.mark.parametrize("method", sorted(method_specs().keys() & shipped().methods.keys()))
def test_every_shipped_method_binds(method):
    bound = bind(method_specs()[method], method)
    assert bound.requirements == shipped().requirements(method)


def test_the_default_is_plain_averaging():
    bound = bind({})
    found = bound.estimate({"experts": ["a", "b"], "tensors": {"w": {"task_vector": [1.0, 4.0]}}})
    assert found.rows == {"model": [0.5, 0.5]}
    assert bound.combine([1.0, 3.0], [0.5, 0.5], None) == 2.0
    assert bound.postprocess(2.0, [1.0, 3.0], None) == 2.0
    assert bound.is_linear and not bound.whole
    assert not bound.requirements


def test_the_requirements_of_trim_are_known_beforehand():
    assert bind({"preprocess": "trim"}).requirements == {"thresholds": {"density": 0.2, "scope": "model"}}
    assert requirements({"preprocess": {"trim": {"density": 0.4, "scope": "tensor"}}}) == {
        "thresholds": {"density": 0.4, "scope": "tensor"}
    }
    assert not requirements({"preprocess": {"drop": {"rate": 0.4}}})


def test_operators_are_named_alone_or_with_hyper_parameters():
    assert operator_of("nan", "coefficients") == ("nan", {})
    assert operator_of({"nan": None}, "coefficients") == ("nan", {})
    assert operator_of({"nan": {"scope": "layer"}}, "coefficients") == ("nan", {"scope": "layer"})


MISTAKES = {
    "a stage": ({"combined": "weighted_sum"}, "method 'm': no stage 'combined'; did you mean 'combine'?"),
    "a foreign stage": (
        {"zzz": "nan"},
        "no stage 'zzz'; known are: coefficients, combine, control, postprocess, preprocess",
    ),
    "an operator": ({"combine": "disjoint_mea"}, "combine has no operator 'disjoint_mea'; did you mean 'disjoint_mean'?"),
    "a foreign operator": (
        {"control": "zzz"},
        "control has no operator 'zzz'; known are: kept, permuted, uniform_matched",
    ),
    "a hyper-parameter": (
        {"preprocess": {"trim": {"desnity": 0.1}}},
        "method 'm': preprocess 'trim' takes ['density', 'scope'], not 'desnity'; did you mean 'density'?",
    ),
    "a hyper-parameter of another operator": ({"preprocess": {"trim": {"rate": 0.1}}}, "['density', 'scope'], not 'rate'"),
    "a positional argument": ({"preprocess": {"trim": {"tau": 0.1}}}, "'trim' takes ['density', 'scope'], not 'tau'"),
    "a norm of nothing": ({"coefficients": {"nan": {"norm": "weights"}}}, "not 'norm'; did you mean 'norm_of'?"),
    "two operators": ({"combine": {"weighted_sum": {}, "disjoint_sum": {}}}, "combine takes one operator"),
    "no operator": ({"combine": {}}, "combine takes one operator, or one operator with its hyper-parameters; found {}"),
    "a list": ({"combine": ["weighted_sum"]}, "combine takes one operator"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_says_what_was_meant(mistake):
    method_spec, message = MISTAKES[mistake]
    with pytest.raises(UserError) as error:
        bind(method_spec, "m")
    assert message in str(error.value)
