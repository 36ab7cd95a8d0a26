"""Intervals, adjustments and paired tests against closed forms, brute force and known values."""

import itertools
import json
import math

import numpy as np
import pytest
from scipy import stats

from nan_merge.core.errors import UserError
from nan_merge.core.files import read_table
from nan_merge.reporting import paired_difference as pairs
from nan_merge.reporting.paired_difference import paired, paired_over_seeds
from nan_merge.reporting.paired_tests import (
    FAILS,
    HOLDS,
    NOT_TESTED,
    SAME,
    UNDECIDABLE,
    UNDECIDED,
    compare_methods,
    verdict,
)
from nan_merge.reporting.statistics import POWER, detectable, holm, over_seeds, spearman, stratified, summarise, wilson
from nan_merge.reporting.study import Score, Study


def test_wilson_gives_the_textbook_interval():
    assert wilson(0.1, 10) == pytest.approx((0.01787621, 0.40415002), abs=1e-7)
    assert wilson(0.0, 20)[0] == 0.0 and wilson(1.0, 20)[1] == pytest.approx(1.0)


def test_the_stratified_interval_of_one_task_is_wilsons():
    assert stratified([0.3], [50])[1:] == pytest.approx(wilson(0.3, 50))


def test_the_stratified_interval_approaches_the_normal_one():
    p, n = np.array([0.6, 0.7, 0.8]), [40_000] * 3
    half = 1.959964 * np.sqrt(np.sum(p * (1 - p) / n)) / 3
    mean, low, high = stratified(p, n)
    assert (mean - low, high - mean) == pytest.approx((half, half), rel=1e-2)


def test_the_stratified_interval_covers_at_its_level():
    random, truth, n = np.random.default_rng(3), np.array([0.5, 0.75, 0.95]), [60, 60, 60]
    draws = random.binomial(60, truth, (1500, 3)) / 60
    covered = np.mean([low <= truth.mean() <= high for _, low, high in (stratified(draw, n) for draw in draws)])
    assert 0.935 < covered < 0.975


def test_holm_steps_down_and_never_falls():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.6]) == [1.0, 1.0] and holm([]) == []


def test_spearman_is_not_defined_for_a_constant():
    assert spearman([1, 2, 3], [2, 4, 9]) == pytest.approx(1) and spearman([1, 2], [5, 5]) is None


def exact_p(differences, weights):
    """All sign patterns of the non-zero differences, task by task."""
    scaled = [w * d / len(task) for w, task in zip(weights, differences, strict=True) for d in task if d]
    observed = abs(sum(scaled))
    flips = np.abs(np.array(list(itertools.product((-1, 1), repeat=len(scaled)))) @ scaled)
    return np.mean(flips >= observed - 1e-12)


@pytest.mark.parametrize("seeds", [1, 2])
def test_the_sign_flip_test_agrees_with_all_sign_patterns(seeds):
    differences = [np.array([1, 1, 1, -1, 0, 0, seeds, 1]), np.array([0, -1, 1, 1, seeds]), np.array([0, 0, 1, -seeds])]
    found = paired(differences, seeds, [1, 1, 1], np.random.default_rng(0))
    assert found.p == pytest.approx(exact_p(differences, [1, 1, 1]), abs=0.006)
    assert found.difference == pytest.approx(np.mean([d.mean() / seeds for d in differences]))


def test_one_task_is_the_exact_binomial_sign_test():
    from scipy.stats import binomtest

    differences = [np.array([1] * 14 + [-1] * 5 + [0] * 81)]
    found = paired(differences, 1, [1], np.random.default_rng(1))
    assert found.p == pytest.approx(binomtest(14, 19).pvalue, abs=0.003)


def test_weights_reach_difference_and_test():
    differences = [np.array([1, 0, 0, 0]), np.array([-1, 0, 0, 0])]
    assert paired(differences, 1, [3, 1], np.random.default_rng(0)).difference == pytest.approx(0.125)


def test_the_bootstrap_interval_has_the_width_of_the_normal_one():
    random = np.random.default_rng(5)
    differences = [random.choice([-1, 0, 1], 400, p=[0.05, 0.8, 0.15]) for _ in range(4)]
    found = paired(differences, 1, np.ones(4), np.random.default_rng(6))
    half = 1.96 * np.sqrt(sum(d.var() / len(d) for d in differences)) / 4
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.05)
    assert found.low < found.difference < found.high


def test_identical_answers_differ_by_zero_with_p_one_and_a_bounded_interval():
    found = paired([np.zeros(300, int)] * 6, 1, np.ones(6), np.random.default_rng(0))
    assert (found.difference, found.p) == (0.0, 1.0)
    assert found.high == pytest.approx((1 - 0.05 ** (1 / 300)) / 6) and found.low == -found.high


def test_scores_that_are_no_counts_are_flipped_sign_by_sign_to_the_same_p(monkeypatch):
    draw = np.random.default_rng(0)
    differences = [np.where(draw.random(n) < 0.2, 0, draw.normal(0.1, 1, n)) for n in (360, 40)]
    exact = sum(each.mean() for each in differences)
    deviation = math.sqrt(sum((each**2).sum() / len(each) ** 2 for each in differences))
    expected = 2 * stats.norm.sf(abs(exact) / deviation)  # the sum of so many signs is normal
    found = paired(differences, 1, [1, 1], np.random.default_rng(0))
    assert found.p == pytest.approx(expected, abs=0.005) and found.difference == pytest.approx(exact / 2)
    monkeypatch.setattr(pairs, "MANY", 1000)
    assert paired(differences, 1, [1, 1], np.random.default_rng(0)).p == pytest.approx(found.p, abs=0.005)


def test_the_null_hypothesis_is_rejected_no_more_often_than_its_level(monkeypatch):
    monkeypatch.setattr(pairs, "FLIPS", 1999)
    monkeypatch.setattr(pairs, "RESAMPLES", 10)
    random = np.random.default_rng(7)
    rejected = [
        paired([random.choice([-1, 0, 1], 100, p=[0.1, 0.8, 0.1]) for _ in range(3)], 1, np.ones(3), random).p < 0.05
        for _ in range(600)
    ]
    assert np.mean(rejected) < 0.075


def test_the_least_attainable_p_is_that_of_discordant_examples_on_one_side():
    """10 discordant answers: 2 of 2^10 patterns, which is above 0.05 / 38."""
    mixed = [np.array([1, -1, 1, -1, 0, 1]), np.array([-1, 0, 1, -1, 1, 1])]
    found = paired(mixed, 1, [2, 1], np.random.default_rng(0))
    assert exact_p([abs(d) for d in mixed], [2, 1]) == 2**-9
    assert 0.05 / 38 < found.least_p == pytest.approx(2**-9, abs=2e-5)
    assert paired([np.zeros(9, int)], 1, [1], np.random.default_rng(0)).least_p == 1.0
    many = paired([np.array([1, -1] * 50)], 1, [1], np.random.default_rng(0))
    assert many.least_p == pytest.approx(1 / (1 + pairs.FLIPS)), "no p is below that of the draws"


@pytest.mark.parametrize(("comparisons", "points"), [(1, 0.57), (38, 0.83), (55, 0.85)])
def test_the_detectable_difference_is_more_than_half_an_interval(comparisons, points):
    """Where half a 95 % interval is 0.4 points."""
    assert 100 * detectable(0.004 / 1.959964, comparisons) == pytest.approx(points, abs=0.006)
    assert detectable(0.0, comparisons) is None


def test_the_detectable_difference_is_found_with_its_power(monkeypatch):
    monkeypatch.setattr(pairs, "FLIPS", 1999)
    monkeypatch.setattr(pairs, "RESAMPLES", 10)
    random, share, n = np.random.default_rng(8), 0.1, 500
    effect = detectable(np.sqrt(share / n / 3), 1)
    odds = [(share - effect) / 2, 1 - share, (share + effect) / 2]
    found = [paired([random.choice([-1, 0, 1], n, p=odds) for _ in range(3)], 1, np.ones(3), random) for _ in range(400)]
    assert np.mean([one.p < 0.05 for one in found]) == pytest.approx(POWER, abs=0.07)
    assert np.mean([one.error for one in found]) == pytest.approx(np.sqrt(share / n / 3), rel=0.02)


def row(**given):
    base = {"difference": 0.01, "low": 0.005, "high": 0.02, "p_holm": 0.01, "discordant": 30, "least_p_holm": 1e-5}
    return {key: str(value) for key, value in {**base, **given}.items()}


def test_a_verdict_needs_the_adjusted_test_and_the_interval():
    assert verdict(row()) == HOLDS
    assert verdict(row(p_holm=0.2)) == UNDECIDED
    assert verdict(row(low=-0.001)) == UNDECIDED
    assert verdict(row(difference=-0.01, low=-0.02, high=-0.005)) == FAILS
    assert verdict(row(difference=0, low=-0.01, high=0.01, p_holm=1, discordant=0, least_p_holm=1)) == SAME
    assert verdict(row(difference=0.01, p_holm=0.4, discordant=8, least_p_holm=0.06)) == UNDECIDABLE
    assert verdict(row(difference=-0.001, low=-0.02, high=0.01, p_holm=1)) == UNDECIDED
    assert verdict({"difference": "", "p_holm": ""}) == NOT_TESTED


def answers(folder, method, predictions, seed=0, suite="toy", model=None):
    """Write a score file and its predictions; every label is 1. `model` is the digest of the model that was scored."""
    file = folder / method / f"seed{seed}" / "all.json"
    file.parent.mkdir(parents=True)
    usual = {"suite": suite, "method": method, "metric": "accuracy", "stderr": None, "seed": seed}
    scores = [{**usual, "task": task, "value": float(np.mean(v)), "n": len(v)} for task, v in predictions.items()]
    origin = {"provenance": {"checkpoints": [method], "xxh3_128": {method: model}}} if model else {}
    file.write_text(json.dumps({"scores": scores, **origin}))
    np.savez(
        file.with_suffix(".npz"),
        **{f"{task}.prediction": np.array(v) for task, v in predictions.items()},
        **{f"{task}.label": np.ones(len(v), int) for task, v in predictions.items()},
    )
    return file


def test_comparisons_are_written_with_holm_over_the_nan_family(tmp_path):
    random = np.random.default_rng(2)
    host = {task: random.integers(0, 2, 200) for task in "ab"}
    better = {task: values | (random.random(200) < 0.2) for task, values in host.items()}
    files = [answers(tmp_path, "host", host), answers(tmp_path, "host_nan", better), answers(tmp_path, "same", host)]
    wanted = [("host_nan", "host", "host"), ("host_nan", "same", "control"), ("same", "host", "host"), ("host", "same", "order")]
    compare_methods(
        files,
        [dict(zip(("suite", "method", "against", "kind"), ("toy", *names), strict=True)) for names in wanted],
        tmp_path / "out.tsv",
        {"toy": {"a": 30, "b": 10}},
    )
    found = {(r["method"], r["against"], r["task"]): r for r in read_table(tmp_path / "out.tsv")}
    gain = found["host_nan", "host", "average"]
    assert float(gain["difference"]) == pytest.approx(np.mean([better[t].mean() - host[t].mean() for t in "ab"]))
    assert float(gain["p_holm"]) == pytest.approx(3 * float(gain["p"])) and verdict(gain) == HOLDS
    assert float(found["host_nan", "host", "weighted_average"]["difference"]) == pytest.approx(
        (3 * (better["a"] - host["a"]).mean() + (better["b"] - host["b"]).mean()) / 4
    )
    same = found["same", "host", "average"]
    assert (float(same["difference"]), same["p"], same["changed"]) == (0.0, "1.0", "0")
    assert found["host", "same", "average"]["p_holm"] == "1.0"
    assert gain["p"] == found["host_nan", "same", "average"]["p"]  # equal answers, equal p


def test_a_pair_that_no_outcome_could_decide_says_so(tmp_path):
    """Ten discordant answers can be significant alone, and not among forty comparisons that are not significant."""
    random = np.random.default_rng(4)
    host = random.integers(0, 2, 400)
    given = {"few": np.where(np.arange(400) < 10, 1 - host, host), **{f"other{k}": random.permutation(host) for k in range(39)}}
    files = [answers(tmp_path, name, {"a": values}) for name, values in {"host": host, **given}.items()]
    wanted = [{"suite": "toy", "method": name, "against": "host", "kind": "host"} for name in given]
    compare_methods(files, wanted[:1], tmp_path / "one.tsv")
    compare_methods(files, wanted, tmp_path / "all.tsv")
    alone, among = read_table(tmp_path / "one.tsv")[0], read_table(tmp_path / "all.tsv")[0]
    assert alone["least_p"] == among["least_p"] and float(alone["least_p_holm"]) == float(alone["least_p"]) < 0.05
    assert float(among["least_p_holm"]) == pytest.approx(40 * float(among["least_p"]))
    assert [verdict(alone), verdict(among)] == [UNDECIDED, UNDECIDABLE]
    assert float(alone["detectable"]) > 0 and among["detectable"] == "", "no difference is detectable that cannot be decided"


def test_no_p_is_below_the_least_attainable_one(monkeypatch):
    """All discordant examples favour one method, so p is the least there is, and its estimate by few draws can be lower."""
    monkeypatch.setattr(pairs, "FLIPS", 99)
    found = [paired([np.array([1] * 4 + [0] * 9)], 1, [1], np.random.default_rng(seed)) for seed in range(40)]
    assert min(one.p for one in found) < 2**-3 and all(one.least_p <= one.p for one in found)


@pytest.mark.parametrize("chosen", ["the fixed value", "another"])
def test_two_methods_that_are_one_model_are_one_comparison(tmp_path, chosen):
    """Where validation chooses the fixed value, the tuned host and its NAN row are the plain ones again."""
    random = np.random.default_rng(11)
    host, nan, other = ({"a": random.integers(0, 2, 300)} for _ in range(3))
    tuned = (host, nan, "H", "N") if chosen == "the fixed value" else (other, other, "T", "TN")
    given = {"host": (host, "H"), "host+nan": (nan, "N"), "tuned": (tuned[0], tuned[2]), "tuned+nan": (tuned[1], tuned[3])}
    files = [answers(tmp_path, name, values, model=model) for name, (values, model) in given.items()]
    wanted = [("host+nan", "host", "host"), ("host+nan", "tuned", "control"), ("tuned+nan", "tuned", "host")]
    wanted += [("tuned", "host", "selection")]
    pairs_of = [dict(zip(("suite", "method", "against", "kind"), ("toy", *names), strict=True)) for names in wanted]
    compare_methods(files, pairs_of, tmp_path / "out.tsv")
    plain, control, row, selection = read_table(tmp_path / "out.tsv")
    once = chosen == "the fixed value"
    assert [each["same_as"] for each in (plain, control, row)] == ["", *2 * ["host+nan against host" if once else ""]]
    assert float(plain["p_holm"]) == pytest.approx(min(1, (1 if once else 3) * float(plain["p"])))
    assert (plain["detectable"] == control["detectable"] == row["detectable"]) == once
    assert (selection["same_as"] == "itself") == once
    if once:
        assert (selection["high"], selection["p_holm"], verdict(selection)) == ("0.0", "1.0", SAME)


def test_equal_answers_of_different_models_are_two_comparisons(tmp_path):
    host, better = {"a": [0] * 40}, {"a": [1] * 9 + [0] * 31}
    files = [answers(tmp_path, name, given, model=name) for name, given in (("host", host), ("one", better), ("two", better))]
    wanted = [{"suite": "toy", "method": name, "against": "host", "kind": "host"} for name in ("one", "two")]
    compare_methods(files, wanted, tmp_path / "out.tsv")
    one, two = read_table(tmp_path / "out.tsv")
    assert one["same_as"] == two["same_as"] == "" and float(one["p_holm"]) == 2 * float(one["p"])


def test_seeds_of_one_example_are_flipped_together(tmp_path):
    host, better = {"a": [0] * 40}, {"a": [1] * 6 + [0] * 34}
    files = [answers(tmp_path, name, given, seed) for name, given in (("host", host), ("nan", better)) for seed in (0, 1, 2)]
    compare_methods(files, [{"suite": "toy", "method": "nan", "against": "host", "kind": "host"}], tmp_path / "out.tsv")
    found = read_table(tmp_path / "out.tsv")[0]
    assert float(found["p"]) == pytest.approx(2 / 2**6, abs=0.004)  # six examples, not eighteen
    assert float(found["improvement"]) == 1.0
    assert (found["n"], found["discordant"], found["seeds"]) == ("120", "18", "0 1 2")


def of_seeds(random, seeds, deviation, effect=0.0, tasks=3, n=300, share=0.1):
    """Draw differences of a pair on the same examples for all seeds: `effect`, and one of that deviation for each seed."""
    shifts = effect + deviation * random.standard_normal(seeds)
    found = []
    for _ in range(tasks):
        uniform = np.clip(random.random(n) + 0.02 * random.standard_normal((seeds, n)), 0, 1)  # the same examples for every seed
        found.append((uniform < (share + shifts[:, None]) / 2).astype(int) - (uniform > 1 - (share - shifts[:, None]) / 2))
    return found


@pytest.mark.parametrize(("seeds", "deviation"), [(3, 0.0), (3, 0.03), (5, 0.03), (5, 0.045)])
def test_intervals_over_seeds_cover_the_difference_of_other_seeds_and_tests_keep_their_level(seeds, deviation, monkeypatch):
    monkeypatch.setattr(pairs, "FLIPS", 999)
    monkeypatch.setattr(pairs, "RESAMPLES", 500)
    random = np.random.default_rng(3)
    drawn = [of_seeds(random, seeds, deviation) for _ in range(300)]
    over = [paired_over_seeds(each, 1, np.ones(3), random) for each in drawn]
    fixed = [paired([each.sum(axis=0) for each in one], seeds, np.ones(3), random) for one in drawn]
    covered, before = (np.mean([one.low <= 0 <= one.high for one in found]) for found in (over, fixed))
    assert covered >= 0.93 and np.mean([one.p < 0.05 for one in over]) <= 0.07
    if deviation:
        assert before < 0.85, "seeds that are taken as given cover no others"


def test_a_difference_that_all_seeds_share_is_found_and_one_of_a_single_seed_is_not():
    random = np.random.default_rng(4)
    shared, single = of_seeds(random, 5, 0.0, effect=0.06), of_seeds(random, 5, 0.0)
    for each in single:
        each[0] = np.where(random.random(300) < 0.2, 1, each[0])  # 20 points on the first seed
    found, lone = (paired_over_seeds(each, 1, np.ones(3), random) for each in (shared, single))
    assert found.p < 0.01 and found.low > 0
    assert lone.p > 0.2 and lone.low < 0 < lone.difference
    assert paired([each.sum(axis=0) for each in single], 5, np.ones(3), random).p < 0.01


def test_one_seed_twice_is_as_certain_as_the_seed():
    one = np.random.default_rng(5).choice([-1, 0, 1], 400, p=[0.05, 0.8, 0.15])
    twice = paired_over_seeds([np.array([one, one])], 1, [1], np.random.default_rng(0))
    alone = paired([one], 1, [1], np.random.default_rng(0))
    assert (twice.low, twice.high, twice.within) == pytest.approx((alone.low, alone.high, alone.within), abs=0.004)


def test_weights_of_each_seed_weight_its_answers():
    random = np.random.default_rng(0)
    each = [random.integers(-1, 2, (3, size)) for size in (50, 80)]
    weights = np.array([[150, 2400], [2400, 600], [600, 150]])
    shares = weights / weights.sum(axis=1, keepdims=True)
    by_hand = np.mean([shares[r, 0] * each[0][r].mean() + shares[r, 1] * each[1][r].mean() for r in range(3)])
    found = paired_over_seeds(each, 1, weights, np.random.default_rng(0))
    assert found.difference == pytest.approx(by_hand) and found.low < by_hand < found.high
    same, plain = (paired_over_seeds(each, 1, w, np.random.default_rng(0)) for w in (np.tile([1, 3], (3, 1)), [1, 3]))
    assert same == plain, "weights that every seed has are weights of the tasks"


def test_clusters_of_examples_are_drawn_whole_over_seeds():
    random = np.random.default_rng(6)
    each = np.repeat(random.choice([-1, 0, 1], (1, 40)), 10, axis=1).repeat(3, axis=0)
    apart, together = (
        paired_over_seeds([each], 1, [1], np.random.default_rng(0), [c]) for c in (None, np.repeat(np.arange(40), 10))
    )
    assert together.high - together.low > 2.5 * (apart.high - apart.low)


def test_what_two_one_sided_tests_exclude_is_the_larger_limit_of_a_90_percent_interval():
    random = np.random.default_rng(7)
    differences = [random.choice([-1, 0, 1], 400, p=[0.05, 0.8, 0.15]) for _ in range(4)]
    found = paired(differences, 1, np.ones(4), np.random.default_rng(0))
    error = np.sqrt(sum(d.var() / len(d) for d in differences)) / 4
    assert found.within == pytest.approx(found.difference + 1.645 * error, rel=0.03)
    assert paired([-d for d in differences], 1, np.ones(4), np.random.default_rng(0)).within == pytest.approx(
        found.within, rel=0.03
    )


def test_limits_of_an_average_are_wider_by_the_spread_over_seeds():
    low, high = over_seeds(0.4, 0.6, (0.48, 0.52))
    half = 12.7062 * np.std([0.48, 0.52], ddof=1) / np.sqrt(2)
    assert (low, high) == pytest.approx((0.5 - np.hypot(0.1, half), 0.5 + np.hypot(0.1, half)), abs=1e-4)
    assert over_seeds(0.8, 0.95, (0.7, 0.99)) == (0.0, 1.0)
    assert over_seeds(-0.2, 0.3, (-0.1, 0.2))[0] < -0.2 and over_seeds(0.5, 1.5, (1.0, 1.1))[1] > 1.5
    assert over_seeds(0.4, 0.6, (0.5,)) == (0.4, 0.6) and over_seeds(0.4, 0.6, (0.5, 0.5)) == pytest.approx((0.4, 0.6))


def test_a_pair_without_all_tasks_is_left_empty_and_out_of_the_family(tmp_path):
    files = [answers(tmp_path, "host", {"a": [0, 1], "b": [1, 1]}), answers(tmp_path, "nan", {"a": [1, 1]})]
    compare_methods(files, [{"suite": "toy", "method": "nan", "against": "host", "kind": "host"}], tmp_path / "out.tsv")
    found = read_table(tmp_path / "out.tsv")[0]
    assert found["difference"] == found["p"] == found["p_holm"] == "" and verdict(found) == NOT_TESTED


def test_different_examples_are_refused(tmp_path):
    files = [answers(tmp_path, "host", {"a": [0, 1]}), answers(tmp_path, "nan", {"a": [1, 1, 0]})]
    with pytest.raises(UserError, match="different examples"):
        compare_methods(files, [{"suite": "toy", "method": "nan", "against": "host", "kind": "host"}], tmp_path / "out.tsv")


def study(values, seeds=(0,), train=(300, 100)):
    """values[method][task] is a value or one value a seed."""
    scores = [
        Score("toy", method, task, "accuracy", value, 100, seed)
        for method, tasks in values.items()
        for task, given in tasks.items()
        for seed, value in zip(seeds, given if isinstance(given, tuple) else (given,), strict=False)
    ]
    suite = {"id": "toy", "tasks": [{"id": t, "train": n} for t, n in zip("ab", train, strict=True)], "seeds": list(seeds)}
    return Study(suite, [{"id": method} for method in values], scores)


def test_the_three_averages():
    found = summarise(study({"individual": {"a": 0.8, "b": 0.5}, "merge": {"a": 0.6, "b": 0.4}}))[1]
    assert found.average.value == pytest.approx(0.5)
    assert found.weighted.value == pytest.approx((3 * 0.6 + 0.4) / 4)
    assert found.normalised.value == pytest.approx((0.6 / 0.8 + 0.4 / 0.5) / 2)


def test_a_missing_score_is_no_zero_and_gives_no_average():
    found = summarise(study({"individual": {"a": 0.8, "b": 0.5}, "merge": {"a": 0.6}}))[1]
    assert found.tasks["b"].value is None and found.average.value is None and "b" in found.average.reason
    assert found.weighted.value is None and found.normalised.value is None


def test_seeds_are_averaged_and_their_spread_is_given():
    found = summarise(study({"merge": {"a": (0.6, 0.7), "b": (0.4, 0.4)}}, (0, 1)))[0]
    assert found.average.value == pytest.approx(0.525)
    assert found.average.deviation == pytest.approx(np.std([0.5, 0.55], ddof=1))
    one = summarise(study({"merge": {"a": 0.65, "b": 0.4}}))[0]
    assert found.average.low < one.average.low and found.average.high > one.average.high


def test_a_missing_seed_is_said():
    assert "seed 1" in summarise(study({"merge": {"a": (0.6,), "b": (0.4,)}}, (0, 1)))[0].average.reason


def test_sizes_that_change_with_the_seed_weight_the_scores_of_each_seed():
    tasks = [{"id": "a", "train": {"0": 100, "1": 300}}, {"id": "b", "train": {"0": 300, "1": 100}}]
    values = {("a", 0): 0.9, ("b", 0): 0.5, ("a", 1): 0.8, ("b", 1): 0.3}
    scores = [Score("s", "m", task, "accuracy", value, 1000, seed) for (task, seed), value in values.items()]
    study = Study({"id": "s", "tasks": tasks, "seeds": [0, 1]}, [{"id": "m"}], scores)
    (row,) = summarise(study)
    assert study.sizes == {} and study.sizes_of(1) == {"a": 300, "b": 100}
    assert row.weighted.by_seed == pytest.approx((0.25 * 0.9 + 0.75 * 0.5, 0.75 * 0.8 + 0.25 * 0.3))
    assert row.weighted.value == pytest.approx(np.mean(row.weighted.by_seed)) != pytest.approx(row.average.value)
    assert row.weighted.low < row.weighted.value < row.weighted.high


def test_an_unknown_training_size_gives_no_weighted_average():
    assert summarise(study({"merge": {"a": 0.6, "b": 0.4}}, train=(300, None)))[0].weighted.value is None


# Examples that come in groups.


def test_the_interval_of_a_score_has_the_width_of_its_standard_error():
    plain = Score("s", "m", "t", "accuracy", 0.6, 1000, 0, math.sqrt(0.24 / 1000))
    grouped = plain._replace(error=3 * math.sqrt(0.24 / 1000))
    assert plain.independent == 1000 and plain._replace(error=math.nan).independent == 1000
    assert plain._replace(value=1.0, error=0.0).independent == 1000
    assert grouped.independent == pytest.approx(1000 / 9)
    low, high = wilson(0.6, grouped.independent)
    assert high - low == pytest.approx(2 * 1.96 * grouped.error, rel=0.02)


def test_tests_of_grouped_examples_take_whole_groups():
    draw = np.random.default_rng(0)
    cluster = np.repeat(np.arange(20), 50)
    rejected = {"examples": 0, "groups": 0}
    for seed in range(100):  # no difference between the methods, but within a group the differences have one sign
        differences = np.repeat(draw.choice([-1, 1], 20), 50) * (draw.random(1000) < 0.3)
        for name, clusters in (("examples", None), ("groups", [cluster])):
            found = paired([differences], 1, [1.0], np.random.default_rng(seed), clusters)
            rejected[name] += found.p < 0.05
            assert found.low <= found.difference <= found.high
    assert rejected["groups"] <= 12 < 40 < rejected["examples"]


def test_groups_of_one_example_each_are_independent_examples():
    draw = np.random.default_rng(1)
    differences = draw.choice([-1, 0, 1], 400, p=[0.1, 0.6, 0.3])
    one = paired([differences], 1, [1.0], np.random.default_rng(0))
    two = paired([differences], 1, [1.0], np.random.default_rng(0), [np.arange(400)])
    assert (two.difference, two.error, two.least_p, two.p) == (one.difference, one.error, one.least_p, one.p)
    assert (two.low, two.high) == pytest.approx((one.low, one.high), abs=0.01)
