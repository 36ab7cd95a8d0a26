"""Spaces of hyper-parameters: what a `tune:` stands for, points put into a method, and every mistake with its message."""

import pytest

from nan_merge.core.errors import UserError
from nan_merge.methods.search_space import Search, names, put, search_of

TIES = {"preprocess": {"trim": {"density": 0.2}}, "coefficients": {"constant": {"value": 0.3}}, "combine": {"disjoint_sum": {}}}


def search(tune, method=TIES):
    return search_of({**method, "tune": tune}, "config/methods.yaml: ties")


def test_the_short_form_is_a_grid_of_one_hyper_parameter():
    found = search({"hyper_parameter": "value", "grid": [0.1, 0.4]})
    assert list(found.grid()) == [{"coefficients.constant.value": 0.1}, {"coefficients.constant.value": 0.4}]
    assert found == search({"search": "grid", "space": {"value": [0.1, 0.4]}}).__class__(found.kind, found.space)


def test_a_grid_is_the_product_of_its_lists():
    found = search({"search": "grid", "space": {"value": [0.1, 0.4], "density": [0.1, 0.2, 0.5]}})
    assert [tuple(point.values()) for point in found.grid()] == [(v, d) for v in (0.1, 0.4) for d in (0.1, 0.2, 0.5)]
    assert {*next(found.grid())} == {"coefficients.constant.value", "preprocess.trim.density"}


def test_a_point_replaces_values_and_leaves_the_rest():
    found = put(TIES, {"preprocess.trim.density": 0.5, "combine.disjoint_sum.elect": "unweighted"})
    assert found["preprocess"] == {"trim": {"density": 0.5}}
    assert found["combine"] == {"disjoint_sum": {"elect": "unweighted"}}
    assert found["coefficients"] == TIES["coefficients"]
    assert TIES["preprocess"] == {"trim": {"density": 0.2}}


def test_a_mean_takes_the_place_of_a_sum():
    found = put({"coefficients": {"nan": {"total": 1.0}}}, {"coefficients.nan.mean": 0.4})
    assert found == {"coefficients": {"nan": {"mean": 0.4}}}


def test_a_trial_depends_on_whole_rounds_before_it_and_never_on_the_budget():
    found = search({"search": "tpe", "budget": 9, "batch": 4, "space": {"value": {"low": 0, "high": 1}}})
    assert [list(found.earlier(number)) for number in (1, 4, 5, 8, 9)] == [[], [], [*range(1, 5)], [*range(1, 5)], [*range(1, 9)]]
    assert "budget" not in found.record() and Search.of(found.record()).space == found.space
    sobol = search({"search": "sobol", "budget": 9, "space": {"value": {"low": 0, "high": 1}}})
    assert not list(sobol.earlier(9))


def test_sobol_has_rounds_only_where_it_is_pruned_and_its_points_do_not_depend_on_them():
    found = search({"search": "sobol", "budget": 9, "batch": 4, "prune": True, "space": {"value": {"low": 0, "high": 1}}})
    assert found.prune and [*found.rounds_before(9)] == [*range(1, 9)] and not [*found.earlier(9)]
    assert not {"prune", "batch"} & found.record().keys() and Search.of(found.record()).space == found.space
    assert not search({"search": "tpe", "budget": 9, "space": {"value": [1, 2]}}).prune


def test_the_first_trial_starts_where_the_method_is_if_the_range_holds_it():
    starts = {(low, high): search(tpe({"value": {"low": low, "high": high}})).space[0].start for low, high in ((0, 1), (0.5, 1))}
    assert starts == {(0, 1): 0.3, (0.5, 1): None}


def test_whole_numbers_are_told_by_the_operator():
    drop = {"preprocess": {"drop": {"rate": 0.9}}}
    assert search(tpe({"preprocess.seed": {"low": 0, "high": 9}}), drop).space[0].integer
    with pytest.raises(UserError, match=r"seed: the hyper-parameter is a whole number; found the range from 0 to 0\.5"):
        search(tpe({"preprocess.seed": {"low": 0, "high": 0.5}}), drop)
    with pytest.raises(UserError, match=r"seed: start: the hyper-parameter is a whole number; found 2\.5"):
        search(tpe({"preprocess.seed": {"low": 0, "high": 9, "start": 2.5}}), drop)


def test_whole_numbers_may_be_written_with_a_point():
    found = search(tpe({"value": BOX}, budget=4.0, batch=2.0, seed=1.0))
    assert [type(number) for number in (found.budget, found.batch, found.seed)] == [int, int, int]


def test_names_are_those_of_the_operators():
    assert names({"space": {"preprocess.density": [1], "value": [1]}}) == ["density", "value"]
    assert names({"hyper_parameter": "mean", "as": "other"}) == ["mean"]


def tpe(space, **more):
    return {"search": "tpe", "budget": 3, "space": space, **more}


BOX = {"low": 0.1, "high": 1.0}
MISTAKES = {
    "an unknown hyper-parameter": (tpe({"valeu": BOX}), "space: valeu: no operator of the method has it; did you mean 'value'?"),
    "one of another stage": (tpe({"combine.density": BOX}), "no operator of the method has it; did you mean 'combine.elect'?"),
    "an empty range": (
        tpe({"value": {"low": 1, "high": 1}}),
        "value: the range from 1 to 1 is empty; expected `low` below",
    ),
    "a range that is turned": (tpe({"value": {"low": 1, "high": 0}}), "the range from 1 to 0 is empty"),
    "a logarithm of zero": (tpe({"value": {"low": 0, "high": 1, "log": True}}), "low: found 0; expected a number above 0 with"),
    "a start outside": (tpe({"value": {**BOX, "start": 2}}), "space: value: start: 2 lies outside the range from 0.1 to 1"),
    "a grid of a range": (
        {"search": "grid", "space": {"value": BOX}},
        "a grid takes lists of values; found a range: write a list, or take sobol, tpe or cma_es",
    ),
    "no budget": ({"search": "sobol", "space": {"value": BOX}}, "the key 'budget' is missing (the number of trials of sobol)"),
    "a budget of a grid": (
        {"search": "grid", "budget": 3, "space": {"value": [1]}},
        "tune: budget: not with `search: grid`, which takes search, space; remove it",
    ),
    "a round of Sobol points": (
        {"search": "sobol", "budget": 3, "batch": 2, "space": {"value": BOX}},
        "tune: batch: not with `search: sobol` without `prune: true`, which takes budget, prune, search, seed, space",
    ),
    "a start of Sobol points": (
        {"search": "sobol", "budget": 3, "space": {"value": {**BOX, "start": 0.5}}},
        "space: value: start: sobol has none; remove it, or take tpe or cma_es",
    ),
    "a number as a name": (tpe({3: BOX}), "space: 3: no operator of the method has it"),
    "too few trials to prune": (
        tpe({"value": BOX}, prune=True, budget=8, batch=8),
        "tune: prune: no trial of the first 8 is pruned; expected a `budget` above that, found 8",
    ),
    "a grid that is pruned": (
        {"search": "grid", "prune": True, "space": {"value": [1]}},
        "tune: prune: not with `search: grid`, which takes search, space; remove it",
    ),
    "a short form that is pruned": (
        {"hyper_parameter": "value", "grid": [1.0], "prune": True},
        "tune: prune: not with `grid`, which takes grid, hyper_parameter; remove it",
    ),
    "a budget of the short form": (
        {"hyper_parameter": "value", "grid": [1.0], "budget": 3},
        "tune: budget: not with `grid`, which takes grid, hyper_parameter",
    ),
    "one twice": (
        tpe({"density": BOX, "preprocess.density": BOX}),
        "preprocess.trim.density stands twice, with and without its stage; keep one",
    ),
    "CMA-ES in one dimension": (tpe({"value": BOX}, search="cma_es"), "cma_es searches two or more ranges; take tpe"),
    "CMA-ES of a list": (tpe({"value": BOX, "density": [0.1, 0.2]}, search="cma_es"), "take tpe for lists"),
    "a small population": (
        tpe({"value": BOX, "density": BOX}, search="cma_es", batch=2),
        "batch: 2 is the population of cma_es; expected 4 or more",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_space_that_does_not_fit_says_why(mistake):
    tune, message = MISTAKES[mistake]
    with pytest.raises(UserError) as error:
        search(tune)
    assert str(error.value).startswith("config/methods.yaml: ties: tune: ")
    assert message in str(error.value)


def test_one_name_of_two_operators_needs_its_stage():
    method = {"preprocess": {"drop": {}}, "coefficients": {"nan": {}}, "control": {"permuted": {}}}
    with pytest.raises(UserError, match=r"seed: several operators of the method have it; write preprocess\.seed or control"):
        search(tpe({"seed": [0, 1]}), method)
    assert search(tpe({"control.seed": [0, 1]}), method).space[0].path == "control.permuted.seed"


def test_two_scales_exclude_each_other():
    with pytest.raises(UserError, match=r"coefficients.nan.mean and coefficients.nan.total exclude each other"):
        search(tpe({"mean": BOX, "total": BOX}), {"coefficients": {"nan": {}}})


@pytest.mark.parametrize(
    ("method", "space", "message"),
    [
        (
            {"coefficients": {"nan": {}}},
            {"norm_of": ["weights", "processed"]},
            "processed needs another measurement; leave",
        ),
        ({"coefficients": {"nan": {}}}, {"norm_of": ["weights", "calibration"]}, "calibration needs another measurement"),
        (
            {"preprocess": {"trim": {}}, "coefficients": {"nan": {"norm_of": "processed"}}},
            {"density": BOX},
            "norms of processed vectors are measured once, before the search",
        ),
    ],
)
def test_what_would_have_to_be_measured_anew_is_not_searched(method, space, message):
    with pytest.raises(UserError) as error:
        search(tpe(space), method)
    assert message in str(error.value)
