"""The operators of the first methods: DARE's drop, TIES' trim, its elections, sums and means."""

import functools
import math

import numpy as np
import pytest

from nan_merge.engine import fused
from nan_merge.methods.combine import disjoint_mean, disjoint_sum
from nan_merge.methods.context import DRAWS, TensorContext
from nan_merge.methods.preprocess import drop, identity, trim

CONTEXT = TensorContext("layer.0.weight", start=2, expert="a", seed=1, threshold=0.5)
ALPHA = [0.5, 0.2, 0.1]


def vectors(seed=0, count=3, size=4000):
    """Draw `count` task vectors of `size` float32 entries."""
    return list(np.random.default_rng(seed).standard_normal((count, size), dtype=np.float32))


def test_drop_is_unbiased():
    """Law 16: over n seeds the mean of an entry has the deviation sqrt(p / (1 - p) / n) |tau|; five of them are allowed."""
    (tau,), rate, seeds = vectors(count=1, size=200), 0.7, 400
    mean = sum(drop(tau, TensorContext("w", seed=s), rate=rate).astype(np.float64) for s in range(seeds)) / seeds
    assert (abs(mean - tau) <= 5 * math.sqrt(rate / (1 - rate) / seeds) * abs(tau)).all()


@pytest.mark.parametrize("other", [{"seed": 2}, {"expert": "b"}, {"tensor": "v"}, {"start": 1}], ids=str)
def test_drop_is_seeded_by_seed_expert_tensor_and_element(other):
    (tau,) = vectors(count=1)
    context = {"tensor": "w", "start": 0, "expert": "a", "seed": 1}
    assert not np.array_equal(drop(tau, TensorContext(**context)), drop(tau, TensorContext(**{**context, **other})))


def test_draws_are_those_of_splitmix64():
    """The first outputs of the published generator for the seed 1234567."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    context = TensorContext("w", start=1)
    known = type("Known", (TensorContext,), {"key": lambda self, draw=0: 1234567})(**vars(context))
    assert known.draws(np.zeros(5, np.float32)).tolist() == [number >> 40 for number in published]


def test_drop_of_nothing_is_the_identity():
    (tau,) = vectors(count=1)
    assert np.array_equal(drop(tau, CONTEXT, rate=0.0), tau)


@pytest.mark.parametrize("operator", [drop, fused.drop], ids=["NumPy", "kernel"])
def test_a_draw_at_the_rate_keeps_its_entry(operator):
    """Of 2^24 draws those below rate 2^24 drop an entry, so one that equals it does not; and the rest is rescaled."""
    (tau,) = vectors(count=1, size=50)
    draws = CONTEXT.draws(tau)
    rate = int(sorted(draws)[20]) / DRAWS
    expected = np.where(draws >= sorted(draws)[20], tau / np.float32(1 - rate), np.float32(0))
    assert (expected != 0).sum() == 30
    assert operator(tau.copy(), CONTEXT, rate=rate) == pytest.approx(expected, rel=1e-6)


def test_trim_keeps_what_reaches_the_threshold():
    tau = np.array([0.5, -0.5, 0.49, -3.0, 0.0], np.float32)
    assert trim(tau, TensorContext("w", threshold=0.5)).tolist() == [0.5, -0.5, 0, -3, 0]
    assert np.array_equal(trim(tau, TensorContext("w", threshold=0.0)), tau)


@pytest.mark.parametrize("elect", ["weighted", "unweighted"])
def test_disjoint_mean_by_coefficients_does_not_see_a_common_scale(elect):
    """Law 7."""
    operator = functools.partial(disjoint_mean, elect=elect, divide_by="coefficients")
    assert operator(vectors(), [8 * a for a in ALPHA], CONTEXT) == pytest.approx(operator(vectors(), ALPHA, CONTEXT), rel=1e-5)


def test_elections_that_tie_elect_plus():
    taus = [np.array([1.0, -2.0], np.float32), np.array([-1.0, 2.0], np.float32)]
    assert disjoint_sum(taus, [1.0, 1.0], CONTEXT).tolist() == [1.0, 2.0]
    assert disjoint_mean(taus, [1.0, 1.0], CONTEXT).tolist() == [1.0, 2.0]


def test_signs_are_elected_after_or_before_weighting():
    taus = [np.array([3.0], np.float32), np.array([-2.0], np.float32)]
    assert disjoint_sum(taus, [0.1, 1.0], CONTEXT, elect="weighted").tolist() == [-2.0]
    assert disjoint_sum(taus, [0.1, 1.0], CONTEXT, elect="unweighted") == pytest.approx([0.3])


def test_identity_is_the_task_vector():
    (tau,) = vectors(count=1)
    assert identity(tau, CONTEXT) is tau
