"""Coefficient rules and controls: NAN's shares, the law of norms, exact means, shuffles, rows of the table."""

import functools
import math

import numpy as np
import pytest

from nan_merge.core.errors import UserError
from nan_merge.methods.coefficients import (
    constant,
    estimate,
    kept,
    mean_coefficient,
    metagpt,
    nan,
    norm_law,
    permuted,
    uniform,
    uniform_matched,
)

NORMS = np.array([1.0, 2.0, 4.0, 0.5])


def close(found, expected):
    assert found == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("normaliser", ["sum", "softmax"])
def test_nan_shares_are_positive_and_sum_to_one(normaliser):
    """Law 1."""
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
    """Law 1."""
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
    close(nan(norms, normaliser=normaliser, zero_norm="drop"), np.array([rest[0], 0, rest[1]]))
    assert norm_law(np.zeros(4), normaliser=normaliser).tolist() == [0.25] * 4


HOSTS = {
    "task arithmetic": (functools.partial(nan, mean=0.3), functools.partial(constant, value=0.3)),
    "averaging": (functools.partial(nan, total=1.0), uniform),
    "a sum": (functools.partial(nan, total=1.3, normaliser="softmax"), functools.partial(uniform, total=1.3)),
    "metagpt": (metagpt, uniform),
    "scaled": (functools.partial(nan, mean=0.3, scale=2.0), functools.partial(constant, value=0.6)),
}


@pytest.mark.parametrize("pair", HOSTS)
def test_uniform_matched_is_exactly_its_host(pair):
    """The mean of the rounded coefficients of some norms is not; the control takes the scale that the rule declares."""
    rule, host = HOSTS[pair]
    rounded = set()
    for seed in range(200):
        lengths = np.random.default_rng(seed).uniform(0.5, 2, 3 + seed % 9)
        measures = {"experts": [*map(str, range(len(lengths)))], "tensors": {"w": {"task_vector": (lengths**2).tolist()}}}
        expected = host(lengths).tolist()
        assert estimate(measures, rule, uniform_matched).rows["model"] == expected
        assert rule(lengths).mean() == pytest.approx(expected[0], rel=1e-14)
        rounded.add(float(rule(lengths).mean()) == expected[0])
    assert rounded == {True, False}, "norms whose rounded mean is off are among them"


def test_uniform_matched_gives_the_mean_where_the_scale_depends_on_the_norms():
    """Rounded once; equal coefficients are their own mean."""
    for rule in (functools.partial(nan, normaliser="length"), functools.partial(nan, normaliser="shrink", scale=0.3)):
        assert mean_coefficient(rule, 3) is None
    assert uniform_matched(np.array([0.1, 0.3, 0.2])).tolist() == [0.2] * 3
    for count in range(1, 60):
        assert uniform_matched(np.full(count, 0.3)).tolist() == [0.3] * count


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("count", [2, 3, 6])
def test_permuted_moves_coefficients_and_loses_none(seed, count):
    row = np.linspace(0.1, 0.9, count)
    assert sorted(permuted(row, seed=seed)) == sorted(row)
    assert permuted(row, seed=seed).tolist() != row.tolist()
    assert permuted(row, seed=seed).tolist() == permuted(row, seed=seed).tolist()


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_the_seeds_of_permuted_give_every_shuffle_once_and_then_again(count):
    ways = math.factorial(count) - 1
    drawn = [tuple(permuted(np.arange(count), seed=seed)) for seed in range(ways + 1)]
    assert len(set(drawn)) == ways
    assert drawn[ways] == drawn[0]


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0, -2.0])
def test_the_law_brings_vectors_to_one_length(exponent):
    close(nan(NORMS, normaliser="length", exponent=exponent, scale=0.3), 0.3 * np.mean(NORMS**exponent) / NORMS**exponent)
    close(nan(NORMS, normaliser="shrink", exponent=exponent, scale=0.3), 0.3 * np.min(NORMS**exponent) / NORMS**exponent)
    for normaliser in ("length", "shrink"):
        found, shares = nan(NORMS, normaliser=normaliser, exponent=exponent), nan(NORMS, exponent=exponent)
        close(found / found.sum(), shares)
        close(nan(1e-9 * NORMS, normaliser=normaliser, exponent=exponent), found)


@pytest.mark.parametrize("normaliser", ["length", "shrink"])
def test_lengths_of_zero_drop_out_and_means_are_refused(normaliser):
    norms = np.array([2.0, 0.0, 1.0])
    with pytest.raises(UserError, match="expert number 2 of 3 has norm zero"):
        norm_law(norms, normaliser=normaliser)
    rest = norm_law(norms[[0, 2]], normaliser=normaliser)
    close(norm_law(norms, normaliser=normaliser, zero_norm="drop"), np.array([rest[0], 0, rest[1]]))
    assert norm_law(np.zeros(3), normaliser=normaliser).tolist() == norm_law(norms, normaliser=normaliser, exponent=0.0).tolist()
    assert norm_law(np.zeros(3), normaliser=normaliser).tolist() == [1.0] * 3
    for excess in ("mean", "total"):
        with pytest.raises(UserError, match=f"normaliser '{normaliser}' takes `scale`"):
            nan(NORMS, normaliser=normaliser, **{excess: 0.3})


def test_metagpt_goes_the_other_way():
    close(metagpt(NORMS), NORMS**2 / (NORMS**2).sum())
    close(metagpt(np.array([0.0, 3.0, 4.0])), np.array([0, 9 / 25, 16 / 25]))
    assert metagpt(np.zeros(2)).tolist() == [0.5, 0.5]


def test_only_some_tensors_may_count():
    squares = {"layers.0.weight": [1.0, 4.0], "layers.0.bias": [25.0, 36.0], "layers.1.weight": [9.0, 4.0]}
    measures = {"experts": ["a", "b"], "tensors": {name: {"task_vector": each} for name, each in squares.items()}}
    table = estimate(measures, lambda norms: norms, kept, only=r"weight$")
    close(table.rows["model"], np.sqrt([10.0, 8.0]))
    assert list(estimate(measures, uniform, kept, only="bias", scope="layer").rows.values()) == [[0.5, 0.5]] * 2
    assert estimate(measures, lambda n: n, kept, only="bias", scope="layer").rows["layers.1"] == [0.0, 0.0]
    with pytest.raises(UserError, match="only: 'heads' is found in none of the 3 merged tensors' names"):
        estimate(measures, uniform, kept, only="heads")
