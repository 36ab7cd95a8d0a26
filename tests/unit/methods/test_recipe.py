"""Every shipped method_spec binds; a misspelt one says what was meant."""

import inspect

import pytest
from models import ROOT, method_specs, shipped

from nan_merge.catalogue.methods import check_method_spec
from nan_merge.core.errors import UserError
from nan_merge.methods.recipe import STAGES, bind, operator_of, requirements


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


def test_coefficients_by_the_processed_vector_need_its_norms_after_what_it_needs():
    by_processed = {"coefficients": {"nan": {"norm_of": "processed"}}}
    assert requirements(by_processed) == {"processed": {"preprocess": {"identity": {}}}}
    assert requirements({"preprocess": {"drop": {}}, **by_processed}) == {
        "processed": {"preprocess": {"drop": {"rate": 0.9, "seed": 0}}}
    }
    trim = {"density": 0.4, "scope": "model"}
    found = requirements({"preprocess": {"trim": {"density": 0.4}}, "combine": "disjoint_sum", **by_processed})
    assert found == {"thresholds": trim, "processed": {"preprocess": {"trim": trim}}}
    assert "processed" not in requirements({"preprocess": "trim", "coefficients": {"nan": {"norm_of": "task_vector"}}})


def test_a_preprocess_that_needs_data_is_not_measured(monkeypatch):
    monkeypatch.setattr(STAGES["preprocess"]["drop"], "requires", "fisher", raising=False)
    message = "method 'm': coefficients: norm_of: processed: the preprocess 'drop' needs fisher statistics"
    with pytest.raises(UserError, match=message):
        bind({"preprocess": "drop", "coefficients": {"nan": {"norm_of": "processed"}}}, "m")


@pytest.mark.parametrize("operator", STAGES["preprocess"])
def test_no_preprocess_takes_coefficients_so_that_these_can_come_from_its_result(operator):
    parameters = inspect.signature(STAGES["preprocess"][operator]).parameters.values()
    assert [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY] == ["tau", "context"]


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


OUT_OF_RANGE = {
    "rank above the size": (
        {"combine": {"swudi": {"rank": 2}}},
        "combine.swudi.rank: expected a number above 0 and of at most 1",
    ),
    "another rule": (
        {"combine": {"swudi": {"rank": "stable"}}},
        "combine.swudi.rank: unknown value 'stable'; known are: participation",
    ),
    "time that runs backwards": ({"combine": {"swudi": {"time": -1}}}, "combine.swudi.time: expected a number above 0"),
    "no steps": ({"combine": {"optmerge": {"steps": -1}}}, "combine.optmerge.steps: expected a whole number of at least 0"),
    "select nothing": ({"combine": {"sce": {"select": 0}}}, "combine.sce.select: expected a number above 0 and of at most 1"),
    "a share in per cent": ({"combine": {"dc_merge": {"density": 5}}}, "combine.dc_merge.density: expected a number above 0"),
    "a ratio below one": ({"combine": {"dc_merge": {"ratio": 0.5}}}, "combine.dc_merge.ratio: expected a number of at least 1"),
    "an unknown smoothing": ({"combine": {"dc_merge": {"smoothing": "avg"}}}, "combine.dc_merge.smoothing: unknown value 'avg'"),
    "rows to rotate": ({"combine": {"orthomerge": {"rotate": "some"}}}, "combine.orthomerge.rotate: unknown value 'some'"),
    "beta in per cent": (
        {"postprocess": {"boost": {"beta": 5}}},
        "postprocess.boost.beta: expected a number above 0 and of at most 1",
    ),
    "a negative length": (
        {"postprocess": {"magic": {"factor": -1}}},
        "postprocess.magic.factor: expected a number of at least 0",
    ),
    "a negative limit": ({"preprocess": {"clip": {"limit": -1}}}, "preprocess.clip.limit: expected a number of at least 0"),
    "no length": ({"coefficients": {"equal_length": {"to": 0}}}, "coefficients.equal_length.to: expected a number above 0"),
    "a draw": ({"preprocess": {"drop": {"seed": -1}}}, "preprocess.drop.seed: expected a whole number of at least 0"),
}


@pytest.mark.parametrize("mistake", OUT_OF_RANGE)
def test_a_value_out_of_range_is_told_by_its_key_before_anything_runs(mistake):
    method_spec, message = OUT_OF_RANGE[mistake]
    with pytest.raises(UserError) as error:
        check_method_spec(method_spec, ROOT, "config/methods.yaml")
    assert str(error.value).startswith(f"config/methods.yaml: method.{message}")
