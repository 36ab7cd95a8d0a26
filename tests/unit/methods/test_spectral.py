"""Operators that work on singular values: against naive oracles, by the laws of their papers, and where matrices degenerate."""

import functools

import numpy as np
import pytest
from cases import edges
from oracles_matrix import boosted as boosted_oracle
from oracles_matrix import cart as cart_oracle
from oracles_matrix import dc_merge as dc_oracle
from oracles_matrix import iso_c as iso_c_oracle
from oracles_matrix import iso_cts as iso_cts_oracle
from oracles_matrix import star as star_oracle
from oracles_matrix import svc as svc_oracle
from oracles_matrix import tsv as tsv_oracle

from nan_merge.methods.context import TensorContext
from nan_merge.methods.matrices import mean
from nan_merge.methods.rescale import boost, star, svc
from nan_merge.methods.spectral import COMBINE, cart, dc_merge, iso_c, iso_cts, tsv

CONTEXT = TensorContext("block.0.weight")
ALPHA = [1.4, 0.5, 1.1]
SHAPES = [(20, 20), (31, 17), (17, 31)]
OTHERS = [(7,), (), (1,), (4, 3, 2), (6, 5, 3, 3)]
every_combine = pytest.mark.parametrize("operator", COMBINE.values(), ids=COMBINE)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
small_iso_cts = functools.partial(iso_cts, common=0.5)  # so that three experts add directions of their own


def vectors(shape=(20, 20), count=3, seed=0):
    """Draw task vectors (T, ...) that share something and differ in size."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((count, *shape)) + rng.standard_normal(shape)) * rng.uniform(0.5, 2, (count, *[1] * len(shape)))


def low_rank(shape=(20, 20), count=3, rank=2, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([rng.standard_normal((shape[0], rank)) @ rng.standard_normal((rank, shape[1])) for _ in range(count)])


def spectrum(matrix):
    return np.linalg.svd(matrix, compute_uv=False)


def close(found, expected, size=None):
    """Whether matrices agree to 1e-10 of the size of what went in."""
    return abs(np.asarray(found) - expected).max(initial=0) <= 1e-10 * max(
        abs(np.asarray(expected)).max(initial=0), size or 0, 1e-300
    )


# What the operators must give: oracles_matrix.py.

ORACLES = [
    (tsv, tsv_oracle),
    (iso_c, iso_c_oracle),
    (iso_cts, iso_cts_oracle),
    (small_iso_cts, functools.partial(iso_cts_oracle, common=0.5)),
    (cart, cart_oracle),
    (functools.partial(cart, rank=0.4, scale=0.7), functools.partial(cart_oracle, rank=0.4, scale=0.7)),
    (dc_merge, dc_oracle),
]


@every_shape
@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize(
    ("operator", "oracle"), ORACLES, ids=["tsv", "iso_c", "iso_cts", "iso_cts half", "cart", "cart 0.4", "dc_merge"]
)
def test_combine_equals_its_oracle(operator, oracle, shape, count):
    taus, alpha = vectors(shape, count), [1.4, 0.5, 1.1, 0.8, 1.2][:count]
    assert close(operator(taus, alpha, CONTEXT), oracle(taus, alpha))


@every_shape
@pytest.mark.parametrize("smoothing", ["none", "average", "linear"])
@pytest.mark.parametrize("density", [1e-3, 0.1, 1.0])
def test_dc_merge_equals_its_oracle(shape, smoothing, density):
    taus = vectors(shape)
    found = dc_merge(taus, ALPHA, CONTEXT, smoothing=smoothing, density=density, ratio=2.0)
    assert close(found, dc_oracle(taus, ALPHA, smoothing, density, rho=2.0))


@every_shape
@pytest.mark.parametrize("beta", [0.01, 0.3, 0.9, 1.0])
def test_subspace_boosting_equals_its_oracle(shape, beta):
    merged = vectors(shape).sum(0)
    assert close(boost(merged, (), CONTEXT, beta=beta), boosted_oracle(merged, beta))


@every_shape
@pytest.mark.parametrize("eta", [0.05, 0.4, 0.9, 1.0])
def test_star_equals_its_oracle(shape, eta):
    for tau in vectors(shape):
        assert close(star(tau, CONTEXT, eta=eta), star_oracle(tau, eta))


@every_shape
@pytest.mark.parametrize("alpha", [None, 0.1, 1.0])
def test_svc_equals_its_oracle(shape, alpha):
    taus = vectors(shape, 4)
    assert close(svc(0.3 * taus.sum(0), taus, CONTEXT, alpha=alpha), svc_oracle(0.3 * taus.sum(0), taus, alpha or 1 / 4))


# Laws of the papers.


@every_shape
def test_tsv_of_one_expert_is_that_expert(shape):
    """Law 14."""
    (tau,) = vectors(shape, 1)
    assert close(tsv([tau], [1.0], CONTEXT), tau)
    assert close(tsv([tau], [0.3], CONTEXT), 0.3 * tau)


@every_shape
@pytest.mark.parametrize("count", [2, 3])
def test_tsv_has_the_singular_values_of_its_parts(shape, count):
    """Law 13: only if both bases are orthonormal does the merge have the singular values that were put side by side."""
    taus, alpha = vectors(shape, count), ALPHA[:count]
    k = min(shape) // count
    kept = np.sort(np.concatenate([c * spectrum(tau)[:k] for c, tau in zip(alpha, taus, strict=True)]))[::-1]
    assert close(spectrum(tsv(taus, alpha, CONTEXT))[: k * count], kept)
    assert close(spectrum(tsv(taus, alpha, CONTEXT))[k * count :], 0, size=kept[0])


@every_shape
def test_iso_c_flattens_the_spectrum_of_the_sum(shape):
    """Law 13."""
    taus = vectors(shape)
    found = iso_c(taus, ALPHA, CONTEXT)
    assert close(spectrum(found), spectrum(np.tensordot(ALPHA, taus, 1)).mean())
    assert np.linalg.norm(found, "nuc") == pytest.approx(np.linalg.norm(np.tensordot(ALPHA, taus, 1), "nuc"), rel=1e-12)


@every_shape
def test_iso_cts_with_all_in_common_is_iso_c(shape):
    assert close(iso_cts(vectors(shape), ALPHA, CONTEXT, common=1.0), iso_c(vectors(shape), ALPHA, CONTEXT))


@every_shape
def test_cart_of_full_rank_is_the_sum_about_the_average(shape):
    """Nothing is cut off: with equal coefficients the residuals cancel, and the average is left."""
    taus = vectors(shape)
    assert close(cart(taus, [1.0] * 3, CONTEXT, rank=1.0), taus.mean(0))
    assert close(cart(taus, ALPHA, CONTEXT, scale=0.0), mean(taus, ALPHA))


def apart(shape=(31, 17), count=3, rank=5, seed=0):
    """Draw low-rank task vectors (T, ...) that share neither rows nor columns."""
    rng = np.random.default_rng(seed)
    rows, columns = (np.linalg.qr(rng.standard_normal((side, side)))[0] for side in shape)
    return [
        rows[:, r] @ rng.standard_normal((rank, rank)) @ columns[:, r].T
        for r in (slice(t * rank, (t + 1) * rank) for t in range(count))
    ]


def test_dc_merge_of_experts_with_nothing_in_common_is_their_sum():
    """Each core is then a block of its own; so the merge is exact up to the rank min(m, n) / T."""
    taus = apart()
    assert close(dc_merge(taus, [1.0] * 3, CONTEXT, density=1.0), sum(taus))
    assert close(dc_merge(taus, ALPHA, CONTEXT, density=1.0), sum(c * tau for c, tau in zip(ALPHA, taus, strict=True)))


@pytest.mark.parametrize("smoothing", ["average", "linear"])
def test_dc_merge_smooths_singular_values_at_their_sum(smoothing):
    (tau,) = vectors((20, 20), 1)
    found, s = spectrum(dc_merge([tau], [1.0], CONTEXT, smoothing=smoothing, density=1.0)), spectrum(tau)
    assert found.sum() == pytest.approx(s.sum(), rel=1e-12)
    assert found[0] / found[-1] == pytest.approx({"average": 1.0, "linear": 5.0}[smoothing], rel=1e-9)
    assert np.diff(found) == pytest.approx(np.full(19, np.diff(found).mean()), abs=1e-9), "equal or along a line"


def test_dc_merge_keeps_few_entries_of_each_core():
    """With one expert the core is diagonal: of 400 entries, a share of 1 % keeps the four largest singular values."""
    (tau,) = vectors((20, 20), 1)
    assert close(
        spectrum(dc_merge([tau], [1.0], CONTEXT, density=0.01)), np.r_[spectrum(tau)[:4], np.zeros(16)], size=spectrum(tau)[0]
    )


@every_shape
def test_subspace_boosting_raises_singular_values_only(shape):
    merged = vectors(shape).sum(0)
    u, s, vt = np.linalg.svd(merged, full_matrices=False)
    for beta in (0.01, 0.5):
        inside = u.T @ boost(merged, (), CONTEXT, beta=beta) @ vt.T
        assert close(inside, np.diag(np.diag(inside)))
        assert (np.diag(inside) >= s * (1 - 1e-12)).all()
        assert np.diag(inside).min() == pytest.approx(np.diag(inside)[-1]), "the weakest are all raised to one value"
    assert close(boost(merged, (), CONTEXT, beta=1e-9), s[0] * u @ vt), "the smallest beta makes all equal to the first"
    assert close(boost(merged, (), CONTEXT, beta=1.0), merged)


def test_subspace_boosting_leaves_directions_that_are_rounding():
    (tau,) = low_rank(count=1)
    assert (spectrum(boost(tau, (), CONTEXT)) > 1e-9).sum() == 2


@every_shape
def test_star_keeps_the_nuclear_norm_and_few_directions(shape):
    for tau in vectors(shape):
        found, s = spectrum(star(tau, CONTEXT)), spectrum(tau)
        rank = int((found > 1e-9 * found[0]).sum())
        assert found.sum() == pytest.approx(s.sum(), rel=1e-12)
        assert s[: rank - 1].sum() < 0.4 * s.sum() <= s[:rank].sum()
        assert close(spectrum(star(tau, CONTEXT, rescale="none"))[:rank], s[:rank])


@pytest.mark.parametrize(("eta", "rank"), [(0.39, 1), (0.4, 1), (0.41, 2), (0.7, 2), (0.71, 3), (1.0, 4)])
def test_star_stops_where_the_share_is_reached_exactly(eta, rank):
    found = spectrum(star(np.diag([4.0, 3.0, 2.0, 1.0]), CONTEXT, eta=eta))
    assert int((found > 1e-9).sum()) == rank


@every_shape
def test_svc_undoes_the_sum_of_equal_experts(shape):
    """T equal experts that were summed respond T-fold in every direction; what is calibrated is one of them."""
    (tau,) = vectors(shape, 1)
    assert close(svc(4 * tau, [tau] * 4, CONTEXT), tau)
    assert close(svc(tau, [tau], CONTEXT), tau)
    assert close(svc(0.3 * tau, [tau], CONTEXT), 0.3 * tau), "with alpha = 1 nothing is stretched"


@every_shape
def test_svc_changes_singular_values_only(shape):
    taus = vectors(shape)
    merged = taus.sum(0)
    found = svc(merged, taus, CONTEXT)
    u, s, vt = np.linalg.svd(merged, full_matrices=False)
    inside = u.T @ found @ vt.T
    assert close(inside, np.diag(np.diag(inside)))
    assert (np.diag(inside) > 0).all()
    assert (spectrum(svc(merged, taus, CONTEXT, alpha=1.0)) <= s * (1 + 1e-12)).all(), "alpha = 1 only shrinks"
    assert (np.diag(inside) <= 3 * s * (1 + 1e-12)).all(), "gamma is at most 1 / alpha = T"


def test_svc_does_not_count_responses_against_the_merge():
    tau = vectors(count=1)[0]
    assert close(svc(tau, [tau, -tau], CONTEXT), tau * 2 / (1 + 0.5))


def test_svc_does_not_count_rounding_as_a_response():
    """Two experts that share neither rows nor columns: each direction hears one of them in full and the other not at all."""
    rows, columns = (np.linalg.qr(np.random.default_rng(seed).standard_normal((20, 20)))[0] for seed in (0, 1))
    taus = [rows[:, part] @ vectors((10, 10), 1, seed)[0] @ columns[part] for seed, part in enumerate((slice(10), slice(10, 20)))]
    assert close(svc(taus[0] + taus[1], taus, CONTEXT), (taus[0] + taus[1]) * 2 / (1 + 0.5))


# Laws of all operators.


@every_combine
@pytest.mark.parametrize("factor", [1e-6, 1e-3, 10.0, 1e6])
def test_what_goes_in_larger_comes_out_larger(operator, factor):
    """All operators are homogeneous in task vectors; all but CART, whose centre moves, in coefficients too."""
    found = operator(vectors(), ALPHA, CONTEXT)
    assert close(operator(factor * vectors(), ALPHA, CONTEXT) / factor, found)
    if operator is not cart:
        assert close(operator(vectors(), [factor * c for c in ALPHA], CONTEXT) / factor, found)


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_star_and_svc_are_homogeneous(factor):
    taus = vectors()
    assert close(star(factor * taus[0], CONTEXT) / factor, star(taus[0], CONTEXT))
    assert close(svc(factor * taus.sum(0), factor * taus, CONTEXT) / factor, svc(taus.sum(0), taus, CONTEXT))


@pytest.mark.parametrize("operator", [tsv, iso_c, iso_cts], ids=["tsv", "iso_c", "iso_cts"])
@pytest.mark.parametrize("shape", [*SHAPES, *OTHERS], ids=str)
def test_scale_multiplies_every_tensor(operator, shape):
    taus = vectors(shape)
    assert close(operator(taus, ALPHA, CONTEXT, scale=1.5), 1.5 * operator(taus, ALPHA, CONTEXT))
    assert close(operator(taus, ALPHA, CONTEXT, scale=1.5), operator(taus, [1.5 * c for c in ALPHA], CONTEXT))


@every_combine
def test_coefficients_of_one_are_the_plain_method_and_weigh_as_longer_task_vectors(operator):
    taus = vectors()
    assert close(operator(taus, [1.0] * 3, CONTEXT), dict(ORACLES)[operator](taus, [1.0] * 3))
    if operator is not cart:
        stretched = taus * np.array(ALPHA)[:, None, None]
        assert close(operator(taus, ALPHA, CONTEXT), operator(stretched, [1.0] * 3, CONTEXT))


# Degenerate matrices: finite, and the same in any order of the experts.


DEGENERATE = {
    **edges(),
    "cancelling here": np.stack([vectors()[0], -0.5 * vectors()[0] / ALPHA[1], -0.9 * vectors()[0] / ALPHA[2]]),
    "equal low rank": np.stack([low_rank(count=1)[0]] * 3),
    "as many rows as experts": vectors((3, 9)),
    "no rows": np.zeros((3, 0, 4)),
}
ALPHAS = pytest.mark.parametrize("alpha", [ALPHA, [1.0, 1.0, 1.0], [1.0, 0.0, 2.0], [1.0, -0.5, 0.5]], ids=str)


@pytest.mark.parametrize("operator", [*COMBINE.values(), small_iso_cts], ids=[*COMBINE, "iso_cts half"])
@pytest.mark.parametrize("taus", DEGENERATE.values(), ids=DEGENERATE)
@ALPHAS
def test_degenerate_matrices_merge_the_same_in_any_order(operator, taus, alpha):
    before = taus.copy()
    taus.flags.writeable = False
    found = operator(taus, alpha, CONTEXT)
    size = abs(taus).max(initial=0)
    assert found.shape == taus.shape[1:]
    assert np.isfinite(found).all()
    assert close(operator(taus[::-1], alpha[::-1], CONTEXT), found, size)
    assert taus.tobytes() == before.tobytes()
    if not taus.any():
        assert not found.any()


def test_arbitrary_directions_are_left_out():
    """Identical experts: TSV-M and the isotropic operators leave the row and column space of the expert alone."""
    (tau,) = low_rank((12, 9), 1, rank=3)
    rows, columns = (basis[:, :3] for basis in (np.linalg.svd(tau)[0], np.linalg.svd(tau)[2].T))
    for operator in (tsv, iso_c, iso_cts, small_iso_cts):
        found = operator(np.stack([tau] * 3), [1.0] * 3, CONTEXT)
        assert abs(found).max() > 0.01
        assert close(rows @ rows.T @ found @ columns @ columns.T, found)


@pytest.mark.parametrize("count", [2, 3])
def test_identical_experts_give_their_strongest_directions(count):
    (tau,) = vectors(count=1)
    u, s, vt = np.linalg.svd(tau)
    k = 20 // count
    assert close(tsv([tau] * count, [1.0] * count, CONTEXT), u[:, :k] * s[:k] @ vt[:k])
    assert close(iso_c([tau] * count, [1 / count] * count, CONTEXT), s.mean() * u @ vt)
    assert close(cart([tau] * count, [1.0] * count, CONTEXT), tau)


@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (2, 9), (1, 1)], ids=str)
def test_matrices_with_fewer_rows_than_experts(shape):
    """TSV-M has no direction for each expert, Iso-CTS none to add, CART keeps one."""
    taus = vectors(shape)
    assert close(tsv(taus, ALPHA, CONTEXT), mean(taus, ALPHA))
    assert close(iso_cts(taus, ALPHA, CONTEXT), iso_c_oracle(taus, ALPHA))
    assert close(cart(taus, ALPHA, CONTEXT), cart_oracle(taus, ALPHA))


def test_an_expert_that_equals_the_base_moves_no_direction():
    taus = vectors(count=2)
    three = np.stack([*taus, np.zeros((20, 20))])
    alone = tsv(taus, [1.0] * 2, CONTEXT)
    with_it = tsv(three, [1.0] * 3, CONTEXT)
    assert spectrum(with_it)[12:].max() < 1e-9, "six directions of each of the others, none of its own"
    assert spectrum(alone)[12:].max() > 0.1
    assert close(tsv([*taus, taus[0]], [1.0, 1.0, 0.0], CONTEXT), with_it), "nor does one whose coefficient is zero"
