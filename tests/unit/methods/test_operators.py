"""The peers' operators against naive float64 lines that do not import the library, and what is theirs alone."""

import functools
import math

import numpy as np
import oracles_operators
import pytest
from cases import close, draw
from oracles_operators import keep_probabilities

from nan_merge.core.errors import UserError
from nan_merge.methods import geometry
from nan_merge.methods.combine import consensus, emr, fisher, max_magnitude
from nan_merge.methods.context import DRAWS, TensorContext
from nan_merge.methods.geometry import karcher, model_stock, slerp, widen
from nan_merge.methods.postprocess import lines, scale
from nan_merge.methods.preprocess import drop
from nan_merge.methods.sparsify import breadcrumbs, della, pcb

torch = pytest.importorskip("torch")

C = [0.5, 0.2, 0.9]


def place(shape, count=3, **more):
    """Return a context with a base and Fisher weights that differ by orders of magnitude."""
    calibration = [10.0 ** draw(*shape, seed=10 + t) for t in range(count)]
    return TensorContext("layer.0.weight", expert="a", seed=1, base=draw(*shape, seed=9), calibration=calibration, **more)


# The lines of the papers: oracles_operators.py.


def test_max_magnitude_takes_the_first_of_equal_sizes():
    assert max_magnitude([np.array([-1.0, 1.0]), np.array([1.0, -1.0])], [0.5, 0.5], TensorContext("w")).tolist() == [-0.5, 0.5]


@pytest.mark.parametrize(("threshold", "agree"), [(0.4, 2), (0.2, 3), (0.6, 1), (1.0, 0), (0.4, 9)])
def test_consensus_keeps_what_enough_tasks_use(threshold, agree):
    taus = draw(3, 400)
    found = consensus(taus, [0.3] * 3, TensorContext("w"), threshold=threshold, agree=agree)
    close(found, oracles_operators.consensus(taus, [0.3] * 3, threshold, agree))
    assert 0 < (found == 0).mean() < 1 or agree == 0


def test_consensus_weighs_the_sum_that_masks_compare_with():
    taus = draw(3, 400)
    close(consensus(taus, C, TensorContext("w")), oracles_operators.consensus(taus, C))
    close(consensus(taus, [7 * c for c in C], TensorContext("w")), 7 * consensus(taus, C, TensorContext("w")))


def test_consensus_drops_ties_at_the_threshold():
    taus = [np.array([1.0]), np.array([2.0])]  # |tau_1| = 0.5 |tau_2|: not more
    assert consensus(taus, [1.0, 1.0], TensorContext("w"), threshold=0.5).tolist() == [0.0]
    assert consensus(taus, [1.0, 1.0], TensorContext("w"), threshold=0.49).tolist() == [3.0]


def test_fisher_without_calibration_or_with_equal_calibration_is_the_weighted_mean():
    taus = draw(3, 50)
    mean = np.average(taus, axis=0, weights=C)
    close(fisher(taus, C, TensorContext("w")), mean)
    close(fisher(taus, C, TensorContext("w", calibration=[np.full(50, 0.7)] * 3)), mean)
    close(fisher(taus, C, TensorContext("w", calibration=[np.zeros(50)] * 3)), mean)
    assert not fisher(taus, C, TensorContext("w", calibration=[np.zeros(50)] * 3), floor=0.0).any()


def test_emr_must_know_the_task():
    with pytest.raises(UserError, match=r"emr makes a model for each task; name one"):
        emr(draw(3, 5), C, TensorContext("w"))


@pytest.mark.parametrize("scope", ["row", "tensor"])
def test_breadcrumbs_keeps_the_middle_of_the_magnitudes(scope):
    tau = draw(8, 40)
    rows = tau if scope == "row" else tau.reshape(1, -1)
    expected = oracles_operators.breadcrumbs(rows, 0.3, 0.1).reshape(tau.shape)
    assert np.array_equal(breadcrumbs(tau, TensorContext("w"), density=0.3, outliers=0.1, scope=scope), expected)
    if scope == "row":
        found = breadcrumbs(tau.T, TensorContext("w", transposed=True), density=0.3, outliers=0.1)
        assert np.array_equal(found, expected.T)


def test_breadcrumbs_of_few_entries_removes_no_outlier_and_keeps_one():
    tau = np.array([0.1, -3.0, 0.2])
    assert breadcrumbs(tau, TensorContext("w")).tolist() == [0, -3.0, 0]
    assert breadcrumbs(tau, TensorContext("w"), density=0.9, outliers=0.01, scope="tensor").tolist() == [0, -3.0, 0.2]
    assert breadcrumbs(tau, TensorContext("w"), density=1.0, outliers=0.0).tolist() == tau.tolist()
    assert breadcrumbs(tau, TensorContext("w"), density=1.0, outliers=0.34).tolist() == [0.1, 0, 0.2]
    assert breadcrumbs(np.array(2.0), TensorContext("w")) == 2.0


def test_breadcrumbs_counts_equal_magnitudes_one_by_one():
    tau = np.array([1.0, -1.0, 1.0, -1.0])
    assert breadcrumbs(tau, TensorContext("w"), density=0.5, outliers=0.25).tolist() == [0, -1, 1, 0]


@pytest.mark.parametrize("transposed", [False, True])
def test_della_drops_small_entries_more_often(transposed):
    tau, context = draw(8, 40), TensorContext("w", expert="a", seed=3, transposed=transposed)
    probability = keep_probabilities(tau.T if transposed else tau, 0.6, 0.3)
    probability = probability.T if transposed else probability
    uniform_draws = oracles_operators.draws(3, "a", "w", 320).reshape(8, 40) / 2**24
    close(della(tau, context, density=0.6, window=0.3), tau / probability * (uniform_draws >= 1 - probability))


def test_della_is_unbiased():
    """Law 16: over n seeds the mean of an entry has the deviation sqrt((1 - p) / p / n) |tau|; five of them are allowed."""
    tau, seeds = draw(4, 30), 400
    mean = sum(della(tau, TensorContext("w", seed=seed), density=0.5, window=0.2) for seed in range(seeds)) / seeds
    probability = keep_probabilities(tau, 0.5, 0.2)
    assert (abs(mean - tau) <= 5 * np.sqrt((1 - probability) / probability / seeds) * abs(tau)).all()


def test_della_without_dropping_is_the_identity_and_l1_keeps_the_sum_of_magnitudes():
    tau = draw(4, 30)
    assert np.array_equal(della(tau, TensorContext("w"), density=1.0, window=0.0), tau)
    assert np.array_equal(della(tau, TensorContext("w"), density=1.0, window=0.0, rescale="l1"), tau)
    found = della(tau, TensorContext("w"), rescale="l1")
    assert abs(found).sum() == pytest.approx(abs(tau).sum())
    assert (found == 0).any()


def test_della_without_a_window_is_dare_also_for_a_draw_at_the_rate():
    (tau,), context = np.random.default_rng(0).standard_normal((1, 50)), TensorContext("w", seed=1)
    rate = int(sorted(context.draws(tau))[20]) / DRAWS
    found = della(tau, context, density=1 - rate, window=0.0)
    assert (found != 0).sum() == 30 and found == pytest.approx(drop(tau, context, rate=rate))


def test_a_vector_is_one_row_of_della_and_an_entry_alone_has_the_density():
    tau = np.ones((2000, 1))
    kept = (della(tau, TensorContext("w")) != 0).mean()
    assert kept == pytest.approx(0.7, abs=5 * math.sqrt(0.21 / 2000))
    close(np.unique(della(tau, TensorContext("w"))), np.array([0, 1 / 0.7]))
    row = draw(1, 30)
    assert np.array_equal(della(row, TensorContext("w")).ravel(), della(row.ravel(), TensorContext("w")))


@pytest.mark.parametrize(("density", "window"), [(0.9, 0.15), (0.1, 0.1), (0.15, 0.15), (1.0, 0.01)])
def test_della_refuses_impossible_probabilities(density, window):
    with pytest.raises(UserError, match=r"della: density .* window .* above 0 and at most 1; take a smaller `window`"):
        della(draw(3, 4), TensorContext("w"), density=density, window=window)


@pytest.mark.parametrize("options", [{}, {"tails": 0.01, "inter": "pairs"}, {"ratio": 0.1}], ids=str)
def test_pcb_equals_the_authors_lines(options):
    taus, c = draw(3, 40, 50, size=0.02), [1.2, 0.9, 1.5]
    given = {key: value for key, value in options.items() if key != "inter"}
    expected = oracles_operators.pcb(taus, c, **given, pairs=options.get("inter") == "pairs")
    found = pcb(taus, c, TensorContext("w"), **options)
    close(found, expected)
    assert 0.02 < (found != 0).mean() < 0.4


def test_pcb_of_one_number_is_the_mean_of_those_that_agree_with_the_sum():
    assert pcb([np.array([2.0]), np.array([1.0])], [1.0, 1.0], TensorContext("w")) == pytest.approx([1.5])
    assert pcb([np.array([2.0]), np.array([-1.0])], [1.0, 1.0], TensorContext("w")) == pytest.approx([2.0])
    assert pcb([np.array([2.0]), np.array([0.0])], [1.0, 1.0], TensorContext("w")) == pytest.approx([2.0])


def test_pcb_of_few_entries_keeps_one_a_task():
    taus = np.array([[3.0, 0.1, 0.2, -0.3], [0.2, 0.1, -2.0, 0.1]])
    assert pcb(taus, [1.0, 1.0], TensorContext("w"), tails=0.0).tolist() == [3.0, 0, -2.0, 0]


def test_slerp_of_weights_of_one_length_stays_on_their_sphere():
    w = draw(2, 30)
    w /= np.linalg.norm(w, axis=1)[:, None]
    context = TensorContext("w", base=draw(30, seed=5))
    for t in (0.0, 0.1, 0.5, 1.0):
        merged = context.base + slerp(w - context.base, [1 - t, t], context)
        assert np.linalg.norm(merged) == pytest.approx(1, rel=1e-12)
        assert math.acos(np.clip(merged @ w[0], -1, 1)) == pytest.approx(t * math.acos(w[0] @ w[1]), abs=1e-7)


@pytest.mark.parametrize("other", [1.0, 2.0, -1.0, 0.0, 1.0 + 1e-9], ids=str)
def test_slerp_of_weights_on_a_line_is_linear(other):
    context = place((4, 5), 2)
    w = np.stack([context.base + 0.3, other * (context.base + 0.3)])
    close(slerp(w - context.base, [1.0, 3.0], context), 0.25 * (w[0] - context.base) + 0.75 * (w[1] - context.base))


@pytest.mark.parametrize("count", [1, 3])
def test_slerp_takes_two_experts(count):
    with pytest.raises(UserError, match=rf"slerp: {count} experts; expected exactly two"):
        slerp(draw(count, 4), C[:count], TensorContext("w", base=np.zeros(4)))


@pytest.mark.parametrize("size", [0.01, 0.3, 3.0])
def test_karcher_is_the_mean_on_the_sphere(size):
    taus, context = draw(3, 6, 9, size=size), place((6, 9))
    shares = np.array(C) / sum(C)
    close(context.base + karcher(taus, C, context), oracles_operators.karcher(context.base + taus, shares))


def test_karcher_of_two_is_slerp_up_to_length():
    taus, context = draw(2, 6, 9), place((6, 9), 2)
    arc, mean = (
        context.base + operator(taus, [0.3, 0.7], context) for operator in (slerp, functools.partial(karcher, iterations=50))
    )
    lengths = np.linalg.norm((context.base + taus).reshape(2, -1), axis=1)
    directions = (context.base + taus) / lengths[:, None, None]
    arc = context.base + slerp(directions - context.base, [0.3, 0.7], context)
    close(mean, arc * (0.3 * lengths[0] + 0.7 * lengths[1]), rel=1e-5)


def test_karcher_where_directions_cancel_takes_the_first():
    w = draw(5)
    merged = karcher(np.stack([w, -w]), [0.5, 0.5], TensorContext("w", base=np.zeros(5)))
    close(merged, w)


def test_karcher_leaves_out_what_is_zero_but_counts_its_length():
    w = draw(2, 5)
    context = TensorContext("w", base=np.zeros(5))
    close(karcher(np.stack([*w, 0 * w[0]]), [1.0, 1.0, 2.0], context), 0.5 * karcher(w, [1.0, 1.0], context))
    base = draw(5)
    assert (base + karcher(np.stack([-base, -base]), [0.5, 0.5], TensorContext("w", base=base)) == 0).all()


def test_model_stock_comes_closest_to_the_centre_of_the_experts():
    """Experts at right angles around a centre, the base at a right angle to them: the point of their space next to it."""
    count, axes = 4, np.linalg.qr(draw(20, 20))[0]
    base, experts = 2.0 * axes[0], 3.0 * axes[1 : count + 1]  # around the centre 0
    taus = experts - base
    closest = base - taus.T @ np.linalg.lstsq(taus.T, base, rcond=None)[0]
    found = base + model_stock(taus.reshape(count, 4, 5), [0.25] * count, TensorContext("w")).ravel()
    close(found, closest)


def test_model_stock_with_unequal_coefficients_moves_towards_the_weighted_mean():
    taus = draw(3, 30) + 1
    close(model_stock(taus, C, TensorContext("w")), oracles_operators.model_stock(taus, C))


@pytest.mark.parametrize("scaled", [-1.0, -0.5, 0.0], ids=str)
def test_model_stock_of_opposite_or_missing_vectors_is_the_base(scaled):
    """cos = -1 / (T - 1) divides by zero, and below it t would be large again."""
    tau = draw(30)
    assert not model_stock(np.stack([tau, scaled * tau]), [0.5, 0.5], TensorContext("w")).any()
    corners = np.array([[1.0, 0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]])
    assert abs(model_stock(corners, C, TensorContext("w"))).max() < 1e-15


def test_model_stock_does_not_see_a_common_scale():
    taus = draw(3, 30) + 1
    close(model_stock(1e-12 * taus, C, TensorContext("w")), 1e-12 * model_stock(taus, C, TensorContext("w")))


@pytest.mark.parametrize("hyper", [{}, {"t": 0.5, "s": 2.0}, {"t": 9.0}], ids=str)
def test_widen_scores_columns_by_length_and_direction(hyper):
    taus, context = draw(3, 6, 9, size=0.1), place((6, 9))
    expected = oracles_operators.widen(context.base, taus, C, **hyper)
    close(widen(taus, C, context, **hyper), expected)
    turned = TensorContext("layer.0.weight", base=context.base.T, transposed=True)
    close(widen(taus.transpose(0, 2, 1), C, turned, **hyper), expected.T)
    tokens = TensorContext("model.embed_tokens.weight", base=context.base.T)
    close(widen(taus.transpose(0, 2, 1), C, tokens, **hyper), expected.T)
    kernel = TensorContext("conv.weight", base=context.base.reshape(6, 3, 3))
    close(widen(taus.reshape(3, 6, 3, 3), C, kernel, **hyper), expected.reshape(6, 3, 3))


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("model.embed_tokens.weight", True),
        ("bert.embeddings.word_embeddings.weight", True),
        ("text_model.embeddings.position_embedding.weight", True),
        ("transformer.wte.weight", True),
        ("positional_embedding", True),
        ("lm_head.weight", False),
        ("vit.embeddings.patch_embeddings.projection.weight", False),
        ("layer.0.mlp.weight", False),
    ],
)
def test_widen_knows_whose_rows_are_tokens(name, tokens):
    taus, base = draw(3, 6, 9, size=0.1), draw(6, 9, seed=9)
    by_columns = widen(taus, C, TensorContext(name, base=base), embeddings="")
    by_rows = widen(taus.transpose(0, 2, 1), C, TensorContext(name, base=base.T), embeddings="").T
    assert not np.allclose(by_rows, by_columns)
    close(widen(taus, C, TensorContext(name, base=base)), by_rows if tokens else by_columns)


def test_widen_of_zero_columns_is_finite():
    taus, base = draw(3, 4, 5, size=0.1), draw(4, 5, seed=9)
    base[:, :2] = 0
    taus[:, :, 1] = 0
    taus[0] = -base
    found = widen(taus, C, TensorContext("w", base=base))
    assert np.isfinite(found).all()
    assert not found[:, 1].any()
    for kind in (np.asarray, torch.from_numpy):
        length, turn = geometry._changes(kind(base), kind(taus[1]), 0)
        close(np.asarray(turn)[0, :2], [0.5, 0])  # half the square of a unit column, and of none
        close(np.asarray(length)[0, :2], np.linalg.norm(taus[1][:, :2], axis=0))


def test_widen_sees_no_turn_in_columns_that_are_only_scaled():
    base = draw(6, 200)
    assert not geometry._changes(base, 0.1 * base, 0)[1].any()
    assert geometry._changes(base, 1e-6 * draw(6, 200, seed=1), 0)[1].all()


def test_lines_grow_with_depth():
    merged = draw(30)
    for depth, factor in ((0.0, 0.2), (0.5, 0.4), (1.0, 0.6), (None, 0.2)):
        close(lines(merged, (), TensorContext("w", depth=depth), alpha=0.2, beta=0.4), factor * merged)
    assert np.mean(
        [lines(np.ones(1), (), TensorContext("w", depth=depth)) for depth in (0, 0.25, 0.5, 0.75, 1)]
    ) == pytest.approx(1)
    close(scale(merged, (), TensorContext("w"), factor=0.3), 0.3 * merged)
