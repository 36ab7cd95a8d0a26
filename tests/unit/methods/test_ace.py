"""Laws and edges of ACE-Merging, and the paper's equations as oracles_matrix.py writes them down."""

import functools

import numpy as np
import pytest
from oracles_matrix import ace as plain

from nan_merge.methods.ace import ace, heterogeneity
from nan_merge.methods.context import TensorContext

ALPHA = [1.2, 0.5, 1.3]
ONES = [1.0] * 3
CONTEXT = TensorContext("layer.0.weight")
SHAPES = [(7, 5), (5, 7), (6, 6), (40, 12), (4, 1)]
ABLATION = {
    "e1": {"normalise": "never", "prior": False, "refine": "never"},
    "e2": {"normalise": "adaptive", "prior": False, "refine": "never"},
    "e3": {"normalise": "adaptive", "prior": True, "refine": "never"},
    "e4": {},
}
VARIANTS = {
    **ABLATION,
    "always": {"normalise": "always", "refine": "always"},
    "refined_only": {"normalise": "never", "refine": "always"},
    "uncentred": {"centre": False, "normalise": "always"},
    "relative": {"epsilon": 1e-2, "epsilon_mode": "relative"},
    "var_log": {"gamma": "var_log", "threshold": 0.1},
    "cv": {"gamma": "cv_of_energy"},
    "restored": {"restore_mean": "mean"},
}
every_variant = pytest.mark.parametrize("given", VARIANTS.values(), ids=VARIANTS)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
every_spread = pytest.mark.parametrize("sizes", [(1.0, 1.1, 0.9), (1.0, 0.1, 0.01)], ids=["even", "uneven"])


def draw(shape=(7, 5), sizes=(1.0, 0.1, 0.01), seed=0):
    """Draw one task vector of each size."""
    rng = np.random.default_rng(seed)
    return np.stack([size * (rng.standard_normal(shape) + 0.5 * rng.standard_normal(shape[1])) for size in sizes])


@every_variant
@every_shape
@every_spread
def test_ace_equals_the_equations(sizes, shape, given):
    taus = draw(shape, sizes)
    expected = plain(taus, ALPHA, **given)
    assert ace(taus, ALPHA, CONTEXT, **given) == pytest.approx(expected, abs=1e-8 * abs(expected).max())


def test_the_spread_decides_what_is_done():
    even, uneven = draw(sizes=(1.0, 1.1, 0.9)), draw(sizes=(1.0, 0.1, 0.01))
    same = functools.partial(ace, normalise="always", refine="always")
    never = functools.partial(ace, normalise="never", refine="never")
    assert np.array_equal(ace(uneven, ALPHA, CONTEXT), same(uneven, ALPHA, CONTEXT))
    assert np.array_equal(ace(even, ALPHA, CONTEXT), never(even, ALPHA, CONTEXT))
    assert np.array_equal(ace(even, ALPHA, CONTEXT, threshold=0.0), same(even, ALPHA, CONTEXT))
    rows = [ace(uneven, ALPHA, CONTEXT, **given) for given in ABLATION.values()]
    assert all(abs(a - b).max() > 1e-6 for i, a in enumerate(rows) for b in rows[:i]), "every step of the ablation must show"


# Heterogeneity.


def test_gamma_of_the_paper_depends_on_the_unit_and_the_others_do_not():
    energies = np.array([0.5, 1.0, 2.0, 4.0])
    scaled = {g: [heterogeneity(s * energies, g) for s in (1.0, 1e-2, 1e-4, 1e4)] for g in ("paper", "var_log", "cv_of_energy")}
    assert max(scaled["paper"]) > 100 * min(scaled["paper"])
    for gamma in ("var_log", "cv_of_energy"):
        assert scaled[gamma] == pytest.approx([scaled[gamma][0]] * 4, rel=1e-9)


def test_gamma_is_what_the_paper_writes():
    assert heterogeneity([np.e, np.e**3]) == pytest.approx(2 / 2**2)
    assert heterogeneity([np.e, np.e**3], "var_log") == pytest.approx(2.0)
    assert heterogeneity([1.0, 3.0], "cv_of_energy") == pytest.approx(2**0.5 / 2)
    assert heterogeneity([1.0, 1.0]) == 0.0


@pytest.mark.parametrize("gamma", ["paper", "var_log", "cv_of_energy"])
def test_gamma_of_one_expert_is_zero(gamma):
    assert heterogeneity([5.0], gamma) == heterogeneity([5.0, 0.0], gamma) == heterogeneity([], gamma) == 0.0
    assert heterogeneity([5.0, 0.0, 2.0], gamma) == heterogeneity([5.0, 2.0], gamma) > 0


# Laws.


@pytest.mark.parametrize("epsilon", [1e-8, 1e-2, 1e2])
def test_one_expert_without_the_prior_is_its_centred_task_vector(epsilon):
    """Law 9."""
    taus = draw()[:1]
    centred = taus[0] - taus[0].mean(axis=0)
    assert ace(taus, [0.7], CONTEXT, prior=False, epsilon=epsilon) == pytest.approx(centred, abs=1e-8)
    assert ace(taus, [0.7], CONTEXT, prior=False, epsilon=epsilon, centre=False) == pytest.approx(taus[0], abs=1e-8)
    whole = ace(taus, [1.0], CONTEXT, prior=False, epsilon=epsilon, restore_mean="mean")
    assert whole == pytest.approx(taus[0], abs=1e-8)


def test_identical_experts_without_the_prior_are_their_centred_task_vector():
    tau = draw()[0]
    centred = tau - tau.mean(axis=0)
    assert ace(np.stack([tau] * 4), [*ONES, 3.0], CONTEXT, prior=False) == pytest.approx(centred, abs=1e-9)


@pytest.mark.parametrize("epsilon", [1e-4, 1e-6, 1e-8])
def test_orthogonal_row_spaces_give_the_sum_of_the_centred_task_vectors(epsilon):
    """Law 10: with no ridge every expert is reproduced on its own row space; the rest is of the order of epsilon."""
    rng = np.random.default_rng(2)
    basis = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    taus = np.stack([rng.standard_normal((8, 2)) @ basis[:, 2 * t : 2 * t + 2].T for t in range(3)])
    found = ace(taus, ONES, CONTEXT, normalise="never", prior=False, refine="never", epsilon=epsilon)
    assert found == pytest.approx((taus - taus.mean(axis=1, keepdims=True)).sum(axis=0), abs=20 * epsilon)


def test_normalisation_is_nan_with_exponent_two_on_every_tensor():
    """Law 11: without prior and refinement, dividing by traces is the same as Gram weights 1 / |W~_t|^2."""
    taus = draw()
    centred = taus - taus.mean(axis=1, keepdims=True)
    weights = [c / np.linalg.norm(w) ** 2 for c, w in zip(ALPHA, centred, strict=True)]
    found = ace(taus, ALPHA, CONTEXT, normalise="always", prior=False, refine="never")
    assert found == pytest.approx(ace(taus, weights, CONTEXT, normalise="never", prior=False, refine="never"), abs=1e-9)


@pytest.mark.parametrize("given", [ABLATION[e] for e in ("e1", "e2", "e3")], ids=["e1", "e2", "e3"])
def test_a_common_factor_of_the_coefficients_cancels_but_for_the_refinement(given):
    taus = draw()
    assert ace(taus, [5 * c for c in ALPHA], CONTEXT, **given) == pytest.approx(ace(taus, ALPHA, CONTEXT, **given), abs=1e-9)


@pytest.mark.parametrize("scale", [1e-3, 10.0])
def test_a_relative_ridge_does_not_see_the_unit_of_the_weights(scale):
    """But for the refinement, which is of the third power of the task vectors where they are not normalised."""
    given = {"epsilon": 1e-3, "epsilon_mode": "relative", "normalise": "never", "refine": "never"}
    taus = draw()
    assert ace(scale * taus, ONES, CONTEXT, **given) == pytest.approx(scale * ace(taus, ONES, CONTEXT, **given), rel=1e-5)


def test_refinement_adds_equal_strength_to_the_leading_directions():
    taus = draw((20, 12))
    added = ace(taus, ONES, CONTEXT, refine="always") - ace(taus, ONES, CONTEXT, refine="never")
    s = np.linalg.svd(added)[1]
    assert s[:3] == pytest.approx([s[0]] * 3, rel=1e-9)
    assert s[3:] == pytest.approx(np.zeros(9), abs=1e-9 * s[0])


# Edges.


@every_variant
@pytest.mark.parametrize("shape", [(7, 5), (1, 4), (1, 1), (0, 4)], ids=str)
def test_nothing_moves_by_nothing(shape, given):
    """Law 11."""
    assert not ace(np.zeros((3, *shape)), ALPHA, CONTEXT, **given).any()


@every_variant
@pytest.mark.parametrize("shape", [(7, 5), (4, 1), (2, 2), (3, 30), (1, 4), (1, 1)], ids=str)
@pytest.mark.parametrize("spoil", ["none", "zero", "alike", "one", "identical", "opposite", "no coefficient"])
def test_ace_never_explodes(spoil, shape, given):
    """Law 11."""
    taus, alpha = draw(shape, (1.0, 0.8, 0.6)), list(ALPHA)
    if spoil == "zero":
        taus[1] = 0
    if spoil == "alike":
        taus[1] = 0.1 + taus[1, :1]  # rows that are all alike: nothing is left of them after centring
    if spoil == "one":
        taus, alpha = taus[:1], [1.0]
    if spoil == "identical":
        taus[:] = taus[0]
    if spoil == "opposite":
        taus[1] = -taus[0]
    if spoil == "no coefficient":
        alpha = [0.0, 0.0, 0.0]
    found = ace(taus, alpha, CONTEXT, **given)
    assert np.isfinite(found).all()
    assert np.linalg.norm(found) <= 200 * sum(np.linalg.norm(tau) for tau in taus)


@every_variant
@pytest.mark.parametrize("position", [0, 2])
def test_an_expert_that_did_not_move_takes_no_part(position, given):
    given = {**given, "restore_mean": "none"}
    moved = draw((8, 6), (1.0, 0.1))
    taus = np.insert(moved, position, 0, axis=0)
    alpha = [1.2, 1.3]
    expected = ace(moved, alpha, CONTEXT, **given)
    assert ace(taus, np.insert(alpha, position, 0.5).tolist(), CONTEXT, **given) == pytest.approx(expected, abs=1e-12)
    taus[position] = draw((8, 6), (1.0,), seed=5)
    assert ace(taus, np.insert(alpha, position, 0.0).tolist(), CONTEXT, **given) == pytest.approx(expected, abs=1e-12)


def test_a_matrix_of_one_row_has_nothing_left_after_centring():
    taus = draw((1, 5))
    assert not ace(taus, ALPHA, CONTEXT).any()
    assert ace(taus, ALPHA, CONTEXT, restore_mean="mean") == pytest.approx(np.tensordot(ALPHA, taus, 1) / 3, abs=1e-12)
    uncentred = ace(taus, ALPHA, CONTEXT, centre=False, refine="never")
    assert uncentred == pytest.approx(plain(taus, ALPHA, centre=False, refine="never"), abs=1e-9)
    assert abs(uncentred).max() > 1e-3
