"""The metrics of GLUE against SciPy and their definitions."""

import math

import numpy as np
import pytest
from scipy import stats

from nan_merge.data.metrics import METRICS, accuracy, f1, matthews, pearson, score, spearman, standard_error


def numbers(n=200, seed=0):
    """Return predictions and labels that are related, both with ties."""
    draw = np.random.default_rng(seed)
    label = np.round(draw.uniform(0, 5, n), 1).astype(np.float32)
    return np.round(label + draw.normal(size=n), 1).astype(np.float32), label


def classes(n=400, seed=0):
    draw = np.random.default_rng(seed)
    label = (draw.uniform(size=n) < 0.7).astype(np.int64)
    return np.where(draw.uniform(size=n) < 0.2, 1 - label, label), label


def test_correlations_are_those_of_scipy_with_ties():
    prediction, label = numbers()
    assert math.isclose(pearson(prediction, label), stats.pearsonr(prediction.astype(float), label.astype(float)).statistic)
    assert math.isclose(spearman(prediction, label), stats.spearmanr(prediction, label).statistic)


def test_two_classes_are_scored_by_their_table():
    prediction, label = classes()
    hit, miss, false, right = (
        int(np.count_nonzero((prediction == p) & (label == y))) for p, y in ((1, 1), (0, 1), (1, 0), (0, 0))
    )
    product = (hit + false) * (hit + miss) * (right + false) * (right + miss)
    assert math.isclose(matthews(prediction, label), (hit * right - false * miss) / math.sqrt(product))
    assert math.isclose(f1(prediction, label), 2 * hit / (2 * hit + false + miss))
    assert accuracy(prediction, label) == (hit + right) / len(label)


def test_a_metric_of_two_names_is_their_mean():
    prediction, label = classes()
    assert score("f1_accuracy", prediction, label) == (f1(prediction, label) + accuracy(prediction, label)) / 2
    prediction, label = numbers()
    assert score("pearson_spearman", prediction, label) == (pearson(prediction, label) + spearman(prediction, label)) / 2


@pytest.mark.parametrize("metric", METRICS)
def test_constant_answers_have_a_score_and_an_error(metric):
    label = np.arange(6) % 2 if "spearman" not in metric else np.linspace(0, 5, 6)
    assert score(metric, np.zeros(6), label) == {"accuracy": 0.5, "f1_accuracy": 0.25}.get(metric, 0.0)
    assert math.isfinite(standard_error(metric, np.zeros(6), label))


def test_the_error_of_accuracy_is_binomial_and_the_bootstrap_agrees_with_theory():
    prediction, label = classes()
    value = accuracy(prediction, label)
    assert standard_error("accuracy", prediction, label) == math.sqrt(value * (1 - value) / 400)
    x, y = (side.astype(np.float64) for side in numbers(2000, 3))
    expected = (1 - pearson(x, y) ** 2) / math.sqrt(2000)  # of a correlation, for normal errors
    assert abs(standard_error("pearson_spearman", x, y) / expected - 1) < 0.25
