"""Laws and edges of RegMean, ACTMat, TACT and WUDI, and each once more in a few float64 lines that do not import the library."""

import functools

import numpy as np
import pytest
from oracles_matrix import data_free, regmean
from oracles_matrix import wudi_loss as loss

from nan_merge.core.errors import UserError
from nan_merge.methods.context import TensorContext
from nan_merge.methods.covariance import actmat, gram
from nan_merge.methods.interference import wudi

ALPHA = [1.2, 0.5, 1.3]
SHAPES = [(7, 5), (5, 7), (6, 6), (1, 4), (4, 1), (1, 1)]
OPERATORS = {
    "gram": gram,
    "actmat": actmat,
    "actmat_trace": functools.partial(actmat, normalise="trace"),
    "tact": functools.partial(actmat, density=0.5),
}
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def draw(shape=(7, 5), count=3, seed=0):
    """Draw `count` task vectors, and the Gram matrices of `count` inputs of 40 examples."""
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((count, 40, shape[1]))
    return rng.standard_normal((count, *shape)), [x.T @ x / 40 for x in inputs]


def context(grams=(), **given):
    return TensorContext("layer.0.weight", calibration=grams, **given)


# What the operators must give: oracles_matrix.py.


@every_shape
@pytest.mark.parametrize("factor", [0.0, 0.6, 0.95, 1.0])
def test_gram_equals_its_oracle(factor, shape):
    taus, grams = draw(shape)
    assert gram(taus, ALPHA, context(grams), off_diagonal=factor) == pytest.approx(regmean(taus, ALPHA, grams, factor), abs=1e-10)


def test_gram_on_task_vectors_is_regmean_on_weights():
    taus, grams = draw()
    base = np.random.default_rng(9).standard_normal(taus[0].shape)
    assert base + gram(taus, ALPHA, context(grams)) == pytest.approx(regmean(base + taus, ALPHA, grams, 0.95), abs=1e-10)


@every_shape
@pytest.mark.parametrize("density", [1.0, 0.5, 0.01])
@pytest.mark.parametrize("trace", [False, True])
def test_actmat_equals_its_oracle(trace, density, shape):
    taus, _ = draw(shape)
    found = actmat(taus, ALPHA, context(), density=density, normalise="trace" if trace else "none")
    assert found == pytest.approx(data_free(taus, ALPHA, density, trace), abs=1e-9)


@pytest.mark.parametrize("init", ["sum", "mean"])
def test_wudi_equals_adam_with_automatic_gradients(init):
    torch = pytest.importorskip("torch")
    taus = torch.from_numpy(draw()[0])
    x = torch.nn.Parameter(taus.sum(0) if init == "sum" else taus.mean(0))
    adam = torch.optim.Adam([x], lr=1e-3)
    for _ in range(50):
        adam.zero_grad()
        loss(x, taus, ALPHA).backward()
        adam.step()
    found = wudi(taus.numpy(), ALPHA, context(), steps=50, learning_rate=1e-3, init=init)
    assert found == pytest.approx(x.detach().numpy(), abs=1e-10)


# Laws.


def test_regmean_of_isotropic_inputs_is_the_mean_by_numbers_of_examples():
    """Law 17: the limit in which NAN's theory lives: sum N_i W_i / sum N_i."""
    taus, numbers = draw()[0], [10.0, 1.0, 100.0]
    grams = [n * np.eye(5) for n in numbers]
    expected = np.tensordot(numbers, taus, 1) / sum(numbers)
    for factor in (0.5, 1.0):
        assert gram(taus, [1.0] * 3, context(grams), off_diagonal=factor) == pytest.approx(expected, abs=1e-12)
    assert gram(taus, numbers, context([np.eye(5)] * 3)) == pytest.approx(expected, abs=1e-12)


def test_a_common_factor_of_the_coefficients_cancels():
    taus, grams = draw()
    for name in ("gram", "actmat", "actmat_trace", "tact"):
        more = OPERATORS[name](taus, [3 * c for c in ALPHA], context(grams))
        assert more == pytest.approx(OPERATORS[name](taus, ALPHA, context(grams)), abs=1e-10), name


def test_tact_of_identical_experts_is_that_expert_where_what_it_keeps_sees_every_input():
    (tau, *_), _ = draw((7, 5))
    assert OPERATORS["tact"](np.stack([tau] * 3), ALPHA, context()) == pytest.approx(tau, abs=1e-9)


def test_the_exact_minimum_of_wudi_is_actmat_over_traces():
    """Law 12."""
    taus, _ = draw((4, 9))
    found = actmat(taus, ALPHA, context(), normalise="trace", cutoff=1e-14)
    scaled = [np.sqrt(c) / np.linalg.norm(t) * t for c, t in zip(ALPHA, taus, strict=True)]
    left = np.concatenate(scaled)  # (sum of rows, in): X left^T = right
    right = np.concatenate([t @ s.T for t, s in zip(taus, scaled, strict=True)], axis=1)
    expected = np.linalg.lstsq(left, right.T, rcond=None)[0].T
    assert found == pytest.approx(expected, abs=1e-9)
    near = [loss(found + 1e-3 * x, taus, ALPHA) for x in draw((4, 9), 20, seed=1)[0]]
    assert min(near) > loss(found, taus, ALPHA)


def test_many_steps_of_wudi_lead_to_that_minimum():
    taus, _ = draw((9, 4))
    found = wudi(taus, ALPHA, context(), steps=4000, learning_rate=1e-2)
    assert found == pytest.approx(actmat(taus, ALPHA, context(), normalise="trace"), abs=1e-6)


def test_tact_keeps_ties_at_the_threshold():
    tau = np.array([[3.0, 1.0], [-1.0, 0.5]])
    kept = np.array([[3.0, 1.0], [-1.0, 0.0]])
    assert actmat(tau[None], [1.0], context(), density=0.5) == pytest.approx(tau @ kept.T @ kept @ np.linalg.inv(kept.T @ kept))


# Edges.


def test_a_zero_task_vector_or_coefficient_leaves_the_others_of_actmat():
    taus, _ = draw()
    others = actmat(taus[[0, 2]], [1.2, 1.3], context())
    assert actmat(taus, [1.2, 0.0, 1.3], context()) == pytest.approx(others, abs=1e-10)
    taus[1] = 0
    for normalise in ("none", "trace"):
        others = actmat(taus[[0, 2]], [1.2, 1.3], context(), normalise=normalise)
        assert actmat(taus, ALPHA, context(), normalise=normalise) == pytest.approx(others, abs=1e-10)


@pytest.mark.parametrize("factor", [0.9, 1.0])
def test_inputs_that_no_expert_saw_get_the_mean(factor):
    taus, grams = draw()
    for g in grams:
        g[2], g[:, 2] = 0, 0
    found = gram(taus, ALPHA, context(grams), off_diagonal=factor)
    assert found[:, 2] == pytest.approx(np.average(taus[:, :, 2], axis=0, weights=ALPHA), abs=1e-10)
    seen = [0, 1, 3, 4]
    expected = regmean(taus[:, :, seen], ALPHA, [g[np.ix_(seen, seen)] for g in grams], factor)
    assert found[:, seen] == pytest.approx(expected, abs=1e-10)


def test_fewer_examples_than_inputs_are_a_vanishing_ridge():
    rng = np.random.default_rng(3)
    taus, inputs = rng.standard_normal((2, 4, 12)), rng.standard_normal((2, 3, 12))
    grams = [x.T @ x for x in inputs]
    found = gram(taus, [1.0, 1.0], context(grams), off_diagonal=1.0)
    expected = regmean(taus, [1.0, 1.0], [g + 1e-7 * np.eye(12) for g in grams], 1.0)
    assert found == pytest.approx(expected, abs=1e-5)


def test_actmat_counts_as_zero_what_the_cutoff_says():
    """An input of its own with 1e-5 of the others' size: dropped in float32's unit, kept in float64's."""
    taus = np.zeros((2, 8, 4))
    taus[:, :7, :3] = draw((7, 3), 2)[0]
    taus[:, 7, 3] = [1e-5, 3e-5]
    dropped, kept = (actmat(taus, [1.0, 1.0], context(), cutoff=unit) for unit in (2.0**-23, 2.0**-52))
    assert np.array_equal(dropped[:, 3], np.zeros(8))
    assert kept[7, 3] == pytest.approx(2.8e-5, rel=1e-9)
    assert dropped[:, :3] == pytest.approx(kept[:, :3], abs=1e-12)


@pytest.mark.parametrize(("times", "kept"), [(3, False), (5, True)])
def test_the_cutoff_counts_times_the_width(times, kept):
    tau = np.diag([1.0, 1.0, 1.0, (times * 2.0**-23) ** 0.5])
    assert bool(actmat(tau[None], [1.0], context())[3, 3]) is kept


def test_a_matrix_without_calibration_gets_the_mean():
    taus, _ = draw()
    assert gram(taus, ALPHA, context()) == pytest.approx(np.tensordot(ALPHA, taus, 1) / 3, abs=1e-12)


@pytest.mark.parametrize("grams", [[np.eye(5)] * 2, [np.eye(7)] * 3, [np.eye(5)[:4]] * 3], ids=["count", "side", "oblong"])
def test_calibration_of_another_shape_is_named(grams):
    with pytest.raises(UserError, match=r"'layer.0.weight': expected 3 of \[5, 5\].* found .*Collect the calibration again"):
        gram(draw()[0], ALPHA, context(grams))


# Which system is solved, and how.


@pytest.fixture
def decomposed(monkeypatch):
    """Collect the systems that are left to eigenvalues."""
    asked, whole = [], np.linalg.pinv
    monkeypatch.setattr("numpy.linalg.pinv", lambda given, **how: asked.append(given.shape) or whole(given, **how))
    return asked


@pytest.mark.parametrize("alpha", [ALPHA, [1.0] * 3], ids=["mixed", "ones"])
@pytest.mark.parametrize("shape", [(60, 12), (14, 12), (10, 24), (4, 24), (1, 24)], ids=str)
def test_a_system_of_full_rank_is_factorised(shape, alpha, decomposed):
    """Tall, square, wide, and fewer rows over all experts than inputs: there the rows themselves are the system."""
    taus, _ = draw(shape)
    found = actmat(taus, alpha, context())
    assert not decomposed
    assert found == pytest.approx(data_free(taus, alpha), abs=1e-9 * abs(taus).max())


@pytest.mark.parametrize("shape", [(60, 12), (14, 12), (10, 24), (4, 24)], ids=str)
def test_a_coefficient_below_zero_is_taken_as_it_is(shape):
    taus, _ = draw(shape)
    assert actmat(taus, [1.0, -0.2, 0.6], context()) == pytest.approx(data_free(taus, [1.0, -0.2, 0.6]), abs=1e-8)


@pytest.mark.parametrize("shape", [(60, 12), (14, 12), (4, 24)], ids=str)
def test_a_system_with_directions_to_drop_is_decomposed(shape, decomposed):
    taus, _ = draw(shape)
    taus[:, -1] = taus[:, 0]
    if shape[0] > 4:
        taus[:, :, 3] = taus[:, :, 2] * (1 + 1e-9)
    found = actmat(taus, ALPHA, context())
    assert len(decomposed) == 1
    assert found == pytest.approx(data_free(taus, ALPHA), abs=1e-7)


def test_gram_matrices_without_an_inverse_are_left_to_the_pseudo_inverse(decomposed):
    taus, grams = draw((6, 5))
    gram(taus, ALPHA, context(grams))
    assert not decomposed
    for each in grams:
        each[2] = each[:, 2] = 0
    gram(taus, ALPHA, context(grams))
    assert len(decomposed) == 1
