"""Coefficient rules and controls: NAN's shares, the law of norms, exact means, shuffles, rows of the table."""

import functools
import math

import numpy as np
import pytest

from nan_merge.core.errors import UserError
from nan_merge.methods.coefficients import (
    constant,
    data_size,
    equal_length,
    estimate,
    given,
    kept,
    metagpt,
    nan,
    permuted,
    scale_of,
    uniform,
    uniform_matched,
)

NORMS = np.array([1.0, 2.0, 4.0, 0.5])


def row(rule, norms=NORMS, control=kept, **scale):
    """Return the coefficients of one row by `estimate`."""
    measures = {"experts": [*map(str, range(len(norms)))], "tensors": {"w": {"task_vector": [float(n) ** 2 for n in norms]}}}
    return np.array(estimate(measures, rule, control, **scale).rows["model"])


def close(found, expected):
    assert found == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("normaliser", ["sum", "softmax", "softmin"])
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
    assert nan(scale * NORMS) == pytest.approx(nan(NORMS), rel=1e-12)


def test_nan_with_exponent_zero_is_uniform():
    assert nan(NORMS, exponent=0.0).tolist() == uniform(NORMS).tolist() == [0.25] * 4
    assert row(functools.partial(nan, exponent=0.0), mean=0.3) == pytest.approx(constant("abcd", value=0.3), rel=1e-15)


@pytest.mark.parametrize("rule", [nan, metagpt, uniform])
def test_shares_are_scaled_to_a_mean_or_a_sum(rule):
    assert row(rule, mean=0.3).mean() == pytest.approx(0.3, rel=1e-15)
    assert row(rule, total=2.0).sum() == pytest.approx(2.0, rel=1e-15)
    assert row(rule).sum() == pytest.approx(1.0, rel=1e-15)


def test_the_scale_of_a_host_is_its_mean_or_its_sum():
    assert scale_of("constant", {"value": 0.3}) == {"mean": 0.3}
    assert scale_of("uniform", {}) == {"total": 1.0}
    assert scale_of("nan", {"norm_of": "weights", "mean": 0.4}) == {"mean": 0.4}
    assert scale_of("metagpt", {"total": 2.0}) == {"total": 2.0}
    assert scale_of("given", {"values": {"a": 0.5, "b": 0.1}}) == {"mean": 0.3}


def test_given_coefficients_are_by_name():
    assert given(["a", "b"], values={"b": 0.1, "a": 0.5}).tolist() == [0.5, 0.1]
    with pytest.raises(UserError, match="given: values: expected a coefficient for each of a, b; found a, c"):
        given(["a", "b"], values={"a": 0.5, "c": 0.1})


def test_data_sizes_are_shares_of_the_examples():
    measures = {"experts": ["a", "b"], "examples": [300, 100], "tensors": {"w": {"task_vector": [1.0, 1.0]}}}
    assert estimate(measures, data_size, kept, mean=0.3).rows == {"model": pytest.approx([0.45, 0.15], rel=1e-15)}
    del measures["examples"]
    with pytest.raises(UserError, match="the number of training examples is not known for a, b; state `examples`"):
        estimate(measures, data_size, kept)


def test_nan_softmax_is_the_softmax_of_the_inverse_norms():
    shares = [math.exp(1 / norm) for norm in NORMS]
    assert nan(NORMS, normaliser="softmax") == pytest.approx(np.array(shares) / sum(shares), rel=1e-12)
    assert np.isfinite(nan(np.array([1e-6, 1.0]), normaliser="softmax")).all()


def test_nan_softmin_is_the_softmax_of_minus_the_norms():
    shares = [math.exp(-norm) for norm in NORMS]
    assert nan(NORMS, normaliser="softmin") == pytest.approx(np.array(shares) / sum(shares), rel=1e-12)
    squared = [math.exp(-(norm**2)) for norm in NORMS]
    assert nan(NORMS, exponent=2.0, normaliser="softmin") == pytest.approx(np.array(squared) / sum(squared), rel=1e-12)
    assert np.isfinite(nan(np.array([1e6, 1.0]), normaliser="softmin")).all()


def test_coefficients_are_divided_by_other_norms_after_the_control():
    squares = {"task_vector": [1.0, 4.0, 16.0], "calibration": [1.0, 4.0, 4.0]}
    measures = {"experts": ["a", "b", "c"], "tensors": {"w": squares}}
    found = [estimate(measures, nan, control, over="calibration").rows["model"] for control in (kept, permuted)]
    plain = [estimate(measures, nan, control).rows["model"] for control in (kept, permuted)]
    for divided, row in zip(found, plain, strict=True):
        close(divided, np.array(row) * [1.5, 0.75, 0.75])
    of_norms = estimate(measures, nan, kept, norm_of="calibration", mean=1.0).rows
    assert estimate(measures, functools.partial(constant, value=1.0), kept, over="calibration").rows == of_norms
    assert scale_of("constant", {"value": 0.3, "over": "calibration"}) == {"mean": 0.3}
    del squares["calibration"]
    with pytest.raises(UserError, match=r"over: calibration: was not measured, only .*; name `calibration:` too"):
        estimate(measures, nan, kept, over="calibration")
    with pytest.raises(UserError, match=r"norm_of: processed: was not measured, only .*; give the file of measures"):
        estimate(measures, nan, kept, norm_of="processed")


@pytest.mark.parametrize("normaliser", ["sum", "softmax", "softmin"])
def test_a_zero_norm_is_an_error_or_drops_out(normaliser):
    norms = np.array([2.0, 0.0, 1.0])
    with pytest.raises(UserError, match=r"expert number 2 of 3 has norm zero.*zero_norm: drop"):
        nan(norms, normaliser=normaliser)
    rest = nan(norms[[0, 2]], normaliser=normaliser)
    close(nan(norms, normaliser=normaliser, zero_norm="drop"), np.array([rest[0], 0, rest[1]]))
    assert nan(np.zeros(4), normaliser=normaliser).tolist() == [0.25] * 4


HOSTS = {
    "task arithmetic": (nan, functools.partial(constant, value=0.3)),
    "averaging": (nan, uniform),
    "softmax": (functools.partial(nan, normaliser="softmax"), functools.partial(constant, value=0.6)),
    "metagpt": (metagpt, uniform),
}


@pytest.mark.parametrize("pair", HOSTS)
def test_uniform_matched_is_exactly_its_host(pair):
    """The mean of the rounded coefficients of some norms is not; the control takes the scale that the rule declares."""
    rule, host = HOSTS[pair]
    scale = scale_of(functools.partial(host).func.__name__, functools.partial(host).keywords)
    rounded = set()
    for seed in range(200):
        lengths = np.random.default_rng(seed).uniform(0.5, 2, 3 + seed % 9)
        expected = row(host, lengths).tolist()
        assert row(rule, lengths, uniform_matched, **scale).tolist() == expected
        mean = float(row(rule, lengths, **scale).mean())
        assert mean == pytest.approx(expected[0], rel=1e-14)
        rounded.add(mean == expected[0])
    assert rounded == {True, False}, "norms whose rounded mean is off are among them"


def test_uniform_matched_gives_the_mean_where_the_scale_depends_on_the_norms():
    """Rounded once; equal coefficients are their own mean."""
    for to in ("mean", "shortest"):
        rule = functools.partial(equal_length, to=to)
        assert row(rule, control=uniform_matched, mean=0.3) == pytest.approx(row(rule, mean=0.3).mean(), rel=1e-15)
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


def test_all_vectors_are_brought_to_one_length():
    close(row(functools.partial(equal_length, to="mean"), mean=0.3) * NORMS, 0.3 * NORMS.mean())
    close(row(functools.partial(equal_length, to="shortest"), mean=0.3) * NORMS, 0.3 * NORMS.min())
    for to in ("mean", "shortest"):
        found = equal_length(NORMS, to=to)
        close(found / found.sum(), nan(NORMS))
        close(equal_length(1e-9 * NORMS, to=to), found)
        close(row(functools.partial(equal_length, to=to)), found / 4)


@pytest.mark.parametrize("to", ["mean", "shortest"])
def test_lengths_of_zero_drop_out(to):
    norms = np.array([2.0, 0.0, 1.0])
    with pytest.raises(UserError, match="expert number 2 of 3 has norm zero"):
        equal_length(norms, to=to)
    rest = equal_length(norms[[0, 2]], to=to)
    close(equal_length(norms, to=to, zero_norm="drop"), np.array([rest[0], 0, rest[1]]))
    assert equal_length(np.zeros(3), to=to).tolist() == [1.0] * 3


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
