"""Operators on whole tensors in float32 against the same in float64: the relative error has a bound by operator."""

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from nan_merge.methods.context import TensorContext
from nan_merge.methods.decompose import leading, polar
from nan_merge.methods.recipe import STAGES
from nan_merge.methods.sparsify import ranks

OF_ENTRIES, OF_SQUARES = 1e-6, 5e-5
BOUNDS = {  # several times the largest error that was measured
    "preprocess": {"breadcrumbs": OF_ENTRIES, "della": OF_ENTRIES, "fusion": OF_ENTRIES, "matched": OF_ENTRIES, "star": 2e-6},
    "combine": {
        **dict.fromkeys(("emr", "model_stock", "pcb", "ram_plus", "sce", "shared_trunk"), OF_ENTRIES),
        **{"slerp": 1e-5, "karcher": 1e-5},  # the base is large beside task vectors
        "widen": 5e-4,  # of columns that change alike, rounding chooses the more important one
        **{"iso_c": OF_SQUARES, "iso_cts": OF_SQUARES, "tsv": OF_SQUARES, "dc_merge": OF_SQUARES, "cart": 1e-5},
        **{"gram": OF_SQUARES, "actmat": 1e-4, "ace": 1e-4, "orthomerge": OF_SQUARES},
        **{"wudi": 3e-4, "optmerge": 3e-4, "swudi": 1e-4, "doge": OF_SQUARES},  # a step of Adam divides by small gradients
    },
    "postprocess": {"scale_weights": OF_ENTRIES, "magic": OF_ENTRIES, "svc": 2e-6, "boost": 5e-6},
}
STEEP = 20  # times the bound where most singular values are small
VARIANTS = {
    "actmat": [{"normalise": "trace"}, {"density": 0.5}, {"cutoff": 2.0**-52}],
    "ace": [{"normalise": "always", "refine": "always"}, {"epsilon_mode": "relative"}],
    "boost": [{"beta": 0.5}],
    "breadcrumbs": [{"scope": "tensor"}],
    "cart": [{"rank": 0.5}],
    "dc_merge": [{"smoothing": "average", "density": 0.1}, {"smoothing": "linear", "density": 0.1}],
    "della": [{"rescale": "l1"}],
    "gram": [{"off_diagonal": 1.0}],
    "orthomerge": [{"rotate": "conflicts"}],
    "pcb": [{"inter": "pairs", "tails": 0.01}],
    "sce": [{"select": 0.5}],
    "swudi": [{"time": None, "rank": "participation"}, {"rank": 1.0}],
    "wudi": [{"init": "mean"}],
}
CASES = [
    (stage, name, values) for stage, operators in BOUNDS.items() for name in operators for values in ({}, *VARIANTS.get(name, ()))
]
SHAPES = {"wide": (40, 96), "wider": (24, 160), "tall": (96, 40), "square": (64, 64), "deficient": (64, 64), "steep": (96, 40)}
ALPHA = [0.5, 0.4, 0.3]
RANK = 5  # of deficient task vectors


def matrix(rng, kind, decay):
    """Draw a matrix whose entries have a mean square of 1 and whose singular values fall as k^-decay."""
    shape = SHAPES[kind]
    u, v = (np.linalg.qr(rng.standard_normal((side, min(shape))))[0] for side in shape)
    s = np.arange(1, min(shape) + 1.0) ** -decay * (np.arange(min(shape)) < (RANK if kind == "deficient" else np.inf))
    return (u * s) @ v.T * np.sqrt(np.prod(shape) / (s @ s))


def models(kind, size):
    """Draw a base and three task vectors of entries about `size` that share a part."""
    rng, decay = np.random.default_rng(0), 2.0 if kind == "steep" else 1.0
    square = dict.fromkeys(SHAPES, kind) | {"deficient": "square"}
    base, common = 50 * size * matrix(rng, square[kind], 0.5), matrix(rng, kind, decay)
    return base, [size * (1 + t / 2) * (0.4 * common + matrix(rng, kind, decay)) for t in range(3)]


def calibration(name, shape):
    """Return the calibration statistics that an operator requires."""
    rng, (out, into) = np.random.default_rng(1), shape
    if name == "gram":
        inputs = [rng.standard_normal((into // 2, into)) / np.arange(1, into + 1) ** 0.5 for _ in ALPHA]
        return [each.T @ each for each in inputs]
    if name in ("matched", "shared_trunk"):
        return [np.concatenate([rng.permutation(out), rng.permutation(into)]).astype(float) for _ in ALPHA]
    return []


def result(stage, name, values, base, taus, cast):
    """Apply one operator to arrays that `cast` makes."""
    statistics = [cast(each) for each in calibration(name, base.shape)]
    context = TensorContext("layers.0.weight", base=cast(base), calibration=statistics, task=1, expert="a", seed=3)
    taus, operator = [cast(tau) for tau in taus], STAGES[stage][name]
    if stage == "preprocess":
        return operator(taus[0], context, **values)
    if stage == "postprocess":
        return operator(sum(taus) / 2, taus, context, **values)
    count = getattr(operator, "experts", len(taus))
    return operator(taus[:count], ALPHA[:count], context, **values)


def narrow(array):
    return np.asarray(array, np.float32)


def test_every_operator_on_whole_tensors_has_a_bound():
    whole = {
        stage: {name for name, each in operators.items() if getattr(each, "whole", False)} for stage, operators in STAGES.items()
    }
    assert {stage: found for stage, found in whole.items() if found} == {stage: {*found} for stage, found in BOUNDS.items()}


@pytest.mark.parametrize("size", [1e-4, 1e3])
@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize(("stage", "name", "values"), CASES, ids=str)
def test_float32_is_near_float64(stage, name, values, kind, size):
    base, taus = models(kind, size)
    with threadpool_limits(1):
        expected = result(stage, name, values, base, taus, np.asarray)
        found = result(stage, name, values, base, taus, narrow)
    assert found.dtype == np.float32 and expected.dtype == np.float64
    bound = BOUNDS[stage][name] * (STEEP if kind == "steep" else 1)
    assert np.linalg.norm(found - expected) <= bound * np.linalg.norm(expected)


@pytest.mark.parametrize("kind", ["wider", "deficient"])
@pytest.mark.parametrize(("stage", "name", "values"), CASES, ids=str)
def test_torch_is_as_near_in_float32(stage, name, values, kind):
    torch = pytest.importorskip("torch")
    base, taus = models(kind, 1e-4)
    with threadpool_limits(1):
        expected = result(stage, name, values, base, taus, np.asarray)
        found = result(stage, name, values, base, taus, lambda array: torch.from_numpy(narrow(array)))
    assert found.dtype == torch.float32
    assert np.linalg.norm(found.numpy() - expected) <= BOUNDS[stage][name] * np.linalg.norm(expected)


@pytest.mark.parametrize("size", [1e-25, 1e-4, 1e25])
def test_squares_that_float32_does_not_hold_are_not_taken(size):
    given = narrow(matrix(np.random.default_rng(0), "tall", 1.0))
    u, s, vt = np.linalg.svd(given, full_matrices=False)
    assert np.linalg.norm(polar(narrow(size) * given, size)[0] - u @ vt) <= 1e-4
    found = leading(narrow(size) * given, 3)
    assert np.linalg.norm((found[0] * (found[1] / narrow(size))) @ found[2] - (u[:, :3] * s[:3]) @ vt[:3]) <= 1e-5 * s[0]


def test_ranks_are_integers_since_float32_counts_to_16_million_only():
    found = ranks(narrow([3.0, 1.0, 2.0]))
    assert found.dtype == np.int64 and found.tolist() == [2, 0, 1]
