"""Laws of the words: they hold for every word of a slot's dict, so a new word is covered by being in the dict."""

import functools
import inspect
import math

import numpy as np
import pytest

from merging.coefficients import COEFFICIENTS, CONTROL, constant, nan, norm_law, permuted, uniform, uniform_matched
from merging.combine import COMBINE, disjoint_mean, disjoint_sum, weighted_sum
from merging.preprocess import PREPROCESS, drop, identity, trim
from merging.results import UserError
from merging.tensors import Site

SITE = Site("layer.0.weight", start=2, expert="a", seed=1, threshold=0.5)
ALPHA = [0.5, 0.2, 0.1]
NORMS = np.array([1.0, 2.0, 4.0, 0.5])
every_preprocess = pytest.mark.parametrize("word", PREPROCESS.values(), ids=PREPROCESS)
every_coefficient = pytest.mark.parametrize("word", COEFFICIENTS.values(), ids=COEFFICIENTS)
every_control = pytest.mark.parametrize("word", CONTROL.values(), ids=CONTROL)
every_combine = pytest.mark.parametrize("word", COMBINE.values(), ids=COMBINE)


def vectors(seed=0, count=3, size=4000):
    """Draw `count` task vectors of `size` float32 entries."""
    return list(np.random.default_rng(seed).standard_normal((count, size), dtype=np.float32))


def given(word):
    """Fill the hyper-parameters that have no default with 0.3."""
    parameters = inspect.signature(word).parameters.values()
    return functools.partial(word, **{p.name: 0.3 for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty})


# Preprocess: one task vector in, one out.


@every_preprocess
def test_preprocess_keeps_type_and_shape_and_zeros(word):
    (tau,) = vectors(count=1)
    assert word(tau, SITE).dtype == np.float32
    assert word(tau.astype(np.float64), SITE).dtype == np.float64
    assert word(tau, SITE).shape == tau.shape
    assert not word(np.zeros_like(tau), SITE).any()


@every_preprocess
def test_preprocess_leaves_its_input_and_repeats_itself(word):
    (tau,) = vectors(count=1)
    before = tau.copy()
    tau.flags.writeable = False
    first, second = word(tau, SITE), word(tau, SITE)
    assert first.tobytes() == second.tobytes()
    assert tau.tobytes() == before.tobytes()


def test_drop_is_unbiased():
    """Over n seeds the mean of an entry has the deviation sqrt(p / (1 - p) / n) |tau|; five of them are allowed."""
    (tau,), rate, seeds = vectors(count=1, size=200), 0.7, 400
    mean = sum(drop(tau, Site("w", seed=s), rate=rate).astype(np.float64) for s in range(seeds)) / seeds
    assert (abs(mean - tau) <= 5 * math.sqrt(rate / (1 - rate) / seeds) * abs(tau)).all()


@pytest.mark.parametrize("other", [{"seed": 2}, {"expert": "b"}, {"tensor": "v"}, {"start": 1}], ids=str)
def test_drop_is_seeded_by_seed_expert_tensor_and_element(other):
    (tau,) = vectors(count=1)
    site = {"tensor": "w", "start": 0, "expert": "a", "seed": 1}
    assert not np.array_equal(drop(tau, Site(**site)), drop(tau, Site(**{**site, **other})))


def test_drop_does_not_see_where_blocks_end():
    (tau,) = vectors(count=1)
    parts = [drop(tau[a:b], Site("w", a, "a", 1)) for a, b in ((0, 7), (7, 1000), (1000, 4000))]
    assert np.array_equal(np.concatenate(parts), drop(tau, Site("w", 0, "a", 1)))


def test_draws_are_those_of_splitmix64():
    """The first outputs of the published generator for the seed 1234567."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    site = Site("w", start=1)
    known = type("Known", (Site,), {"key": 1234567})(**vars(site))
    assert known.draws(np.zeros(5, np.float32)).tolist() == [number >> 40 for number in published]


def test_drop_of_nothing_is_the_identity():
    (tau,) = vectors(count=1)
    assert np.array_equal(drop(tau, SITE, rate=0.0), tau)


def test_trim_keeps_what_reaches_the_threshold():
    tau = np.array([0.5, -0.5, 0.49, -3.0, 0.0], np.float32)
    assert trim(tau, Site("w", threshold=0.5)).tolist() == [0.5, -0.5, 0, -3, 0]
    assert np.array_equal(trim(tau, Site("w", threshold=0.0)), tau)


# Coefficients: T norms in, T coefficients out.


@every_coefficient
def test_coefficients_are_one_an_expert(word):
    before = NORMS.copy()
    found = given(word)(NORMS)
    assert found.shape == NORMS.shape
    assert np.isfinite(found).all()
    assert found.tobytes() == given(word)(NORMS).tobytes()
    assert NORMS.tobytes() == before.tobytes()


@every_coefficient
def test_coefficients_follow_their_experts(word):
    order = [2, 0, 3, 1]
    assert given(word)(NORMS[order]) == pytest.approx(given(word)(NORMS)[order], rel=1e-15)


@every_coefficient
def test_equal_norms_give_equal_coefficients(word):
    found = given(word)(np.full(5, 3.7))
    assert found == pytest.approx(np.full(5, found[0]), rel=1e-15)


@every_coefficient
def test_one_expert_alone_gets_one_coefficient(word):
    assert given(word)(np.array([3.0])).tolist() in ([1.0], [0.3])


@every_control
def test_controls_keep_the_mean_and_the_given_row(word):
    row = np.array([0.1, 0.2, 0.7])
    before = row.copy()
    assert word(row).mean() == pytest.approx(row.mean(), rel=1e-15)
    assert row.tobytes() == before.tobytes()
    assert word(np.array([0.4])).tolist() == [0.4]


@pytest.mark.parametrize("normaliser", ["sum", "softmax"])
def test_nan_shares_are_positive_and_sum_to_one(normaliser):
    shares = nan(NORMS, normaliser=normaliser)
    assert shares.sum() == pytest.approx(1, rel=1e-15)
    assert (shares > 0).all()
    assert list(np.argsort(shares)) == list(np.argsort(-NORMS)), "the smaller the norm, the larger the share"


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0, -2.0])
def test_doubling_a_norm_divides_its_share_by_two_to_the_exponent(exponent):
    doubled = NORMS * [1, 1, 2, 1]
    before, after = nan(NORMS, exponent=exponent), nan(doubled, exponent=exponent)
    assert after[2] / after[0] == pytest.approx(before[2] / before[0] / 2**exponent)


@pytest.mark.parametrize("scale", [1e-9, 0.1, 1e9])
def test_nan_does_not_see_a_common_scale(scale):
    assert nan(scale * NORMS, mean=0.3) == pytest.approx(nan(NORMS, mean=0.3), rel=1e-12)


def test_nan_with_exponent_zero_is_uniform():
    assert nan(NORMS, exponent=0.0).tolist() == uniform(NORMS).tolist() == [0.25] * 4
    assert nan(NORMS, exponent=0.0, mean=0.3) == pytest.approx(constant(NORMS, value=0.3), rel=1e-15)


def test_nan_takes_its_mean_or_its_sum_from_the_host():
    assert nan(NORMS, mean=0.3).mean() == pytest.approx(0.3, rel=1e-15)
    assert nan(NORMS, total=2.0).sum() == pytest.approx(2.0, rel=1e-15)


def test_nan_softmax_is_the_softmax_of_the_inverse_norms():
    shares = [math.exp(1 / norm) for norm in NORMS]
    assert nan(NORMS, normaliser="softmax") == pytest.approx(np.array(shares) / sum(shares), rel=1e-12)
    assert np.isfinite(nan(np.array([1e-6, 1.0]), normaliser="softmax")).all()


@pytest.mark.parametrize("normaliser", ["sum", "softmax"])
def test_a_zero_norm_is_an_error_or_drops_out(normaliser):
    norms = np.array([2.0, 0.0, 1.0])
    with pytest.raises(UserError, match=r"expert number 2 of 3 has norm zero.*zero_norm: drop"):
        nan(norms, normaliser=normaliser)
    rest = nan(norms[[0, 2]], normaliser=normaliser)
    assert nan(norms, normaliser=normaliser, zero_norm="drop").tolist() == [rest[0], 0, rest[1]]
    assert norm_law(np.zeros(4), normaliser=normaliser).tolist() == [0.25] * 4


def test_uniform_matched_gives_every_expert_the_mean():
    assert uniform_matched(np.array([0.1, 0.3, 0.2])) == pytest.approx([0.2] * 3, rel=1e-15)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("count", [2, 3, 6])
def test_permuted_moves_coefficients_and_loses_none(seed, count):
    row = np.linspace(0.1, 0.9, count)
    assert sorted(permuted(row, seed=seed)) == sorted(row)
    assert permuted(row, seed=seed).tolist() != row.tolist()
    assert permuted(row, seed=seed).tolist() == permuted(row, seed=seed).tolist()


# Combine: T task vectors and T coefficients in, one out.


@every_combine
def test_combine_keeps_type_and_shape_and_zeros(word):
    taus = vectors()
    assert word(taus, ALPHA, SITE).dtype == np.float32
    assert word([tau.astype(np.float64) for tau in taus], ALPHA, SITE).dtype == np.float64
    assert word(taus, ALPHA, SITE).shape == taus[0].shape
    assert not word([np.zeros_like(tau) for tau in taus], ALPHA, SITE).any()


@every_combine
def test_combine_leaves_its_inputs_and_repeats_itself(word):
    taus, alpha = vectors(), list(ALPHA)
    before = [tau.copy() for tau in taus]
    for tau in taus:
        tau.flags.writeable = False
    assert word(taus, alpha, SITE).tobytes() == word(taus, alpha, SITE).tobytes()
    assert np.array_equal(taus, before)
    assert alpha == ALPHA


@every_combine
def test_combine_does_not_see_the_order_of_experts(word):
    taus, order = vectors(), [2, 0, 1]
    found = word([taus[t] for t in order], [ALPHA[t] for t in order], SITE)
    assert found == pytest.approx(word(taus, ALPHA, SITE), abs=1e-6)


@every_combine
def test_combine_of_one_expert_is_that_expert(word):
    (tau,) = vectors(count=1)
    assert np.array_equal(word([tau], [1.0], SITE), tau)


@every_combine
def test_combine_of_identical_experts_is_theirs_up_to_scale(word):
    (tau,) = vectors(count=1)
    found = word([tau] * 3, [1 / 3] * 3, SITE)
    assert found * (tau[0] / found[0]) == pytest.approx(tau, rel=1e-5)


@pytest.mark.parametrize("word", [weighted_sum, disjoint_sum, functools.partial(disjoint_mean, divide_by="coefficients")])
def test_averages_of_identical_experts_are_that_expert(word):
    (tau,) = vectors(count=1)
    assert word([tau] * 3, [0.5, 0.3, 0.2], SITE) == pytest.approx(tau, rel=1e-6)


@pytest.mark.parametrize("elect", ["weighted", "unweighted"])
def test_disjoint_mean_by_coefficients_does_not_see_a_common_scale(elect):
    word = functools.partial(disjoint_mean, elect=elect, divide_by="coefficients")
    assert word(vectors(), [8 * a for a in ALPHA], SITE) == pytest.approx(word(vectors(), ALPHA, SITE), rel=1e-5)


def test_elections_that_tie_elect_plus():
    taus = [np.array([1.0, -2.0], np.float32), np.array([-1.0, 2.0], np.float32)]
    assert disjoint_sum(taus, [1.0, 1.0], SITE).tolist() == [1.0, 2.0]
    assert disjoint_mean(taus, [1.0, 1.0], SITE).tolist() == [1.0, 2.0]


def test_signs_are_elected_after_or_before_weighting():
    taus = [np.array([3.0], np.float32), np.array([-2.0], np.float32)]
    assert disjoint_sum(taus, [0.1, 1.0], SITE, elect="weighted").tolist() == [-2.0]
    assert disjoint_sum(taus, [0.1, 1.0], SITE, elect="unweighted") == pytest.approx([0.3])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # NumPy's masks on torch's tensors
def test_words_agree_on_numpy_and_torch():
    torch = pytest.importorskip("torch")
    taus = vectors()
    tensors = [torch.from_numpy(tau) for tau in taus]
    for name, word in PREPROCESS.items():
        found = word(tensors[0], SITE)
        assert isinstance(found, torch.Tensor), name
        assert found.dtype == torch.float32, name
        assert np.array_equal(found.numpy(), word(taus[0], SITE)), name
    for name, word in COMBINE.items():
        found = word(tensors, ALPHA, SITE)
        assert found.dtype == torch.float32, name
        assert np.array_equal(found.numpy(), word(taus, ALPHA, SITE)), name


def test_identity_is_the_task_vector():
    (tau,) = vectors(count=1)
    assert identity(tau, SITE) is tau
