"""Singular triplets and polar factors against whole singular value decompositions, where they are easy and where they are not."""

import numpy as np
import pytest

from nan_merge.methods import decompose
from nan_merge.methods.decompose import leading, polar, quotients

SHAPES = [(40, 40), (90, 40), (40, 90), (400, 30), (50, 40), (1, 1), (5, 1), (1, 5)]


def matrix(shape, decay=0.0, seed=0):
    """Draw a matrix whose singular values fall by 10 to the power of `decay`."""
    rng = np.random.default_rng(seed)
    u, s, vt = np.linalg.svd(rng.standard_normal(shape), full_matrices=False)
    return (u * s * np.logspace(0, -decay, len(s))) @ vt


def whole(found):
    u, s, vt = found
    return (u * s) @ vt


@pytest.mark.parametrize("decay", [0.0, 2.0, 6.0, 14.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_leading_triplets_are_those_of_the_whole_decomposition(shape, decay):
    given = matrix(shape, decay)
    u, s, vt = np.linalg.svd(given, full_matrices=False)
    for count in {1, len(s) // 3, len(s)}:
        found = leading(given, count)
        assert abs(found[1] - s[:count]).max(initial=0) <= 1e-12 * s[0]
        assert abs(whole(found) - whole((u[:, :count], s[:count], vt[:count]))).max(initial=0) <= 1e-11 * s[0]
        assert abs(found[0].T @ found[0] - np.eye(count)).max(initial=0) <= 1e-9
        assert [part.shape for part in found] == [(shape[0], count), (count,), (count, shape[1])]


def test_small_singular_values_are_taken_from_squares_of_what_the_large_ones_leave(monkeypatch):
    asked = []
    monkeypatch.setattr(decompose, "svd", lambda given: asked.append(given) or np.linalg.svd(given, full_matrices=False))
    for decay, count in [(2.0, 40), (6.0, 40), (9.0, 40), (14.0, 20)]:
        leading(matrix((400, 40), decay), count)
    for shape in [(40, 40), (400, 40)]:
        polar(matrix(shape, 14.0), 1.0)
    assert not asked
    leading(matrix((400, 40), 14.0), 40)
    assert len(asked) == 1, "the last are rounding"


@pytest.mark.parametrize("unit", [1e-200, 1e-140, 1e160])
def test_squares_that_are_no_numbers_are_not_taken(unit):
    given = matrix((50, 20))
    u, s, vt = np.linalg.svd(given, full_matrices=False)
    assert abs(polar(unit * given, unit)[0] - u @ vt).max() <= 1e-12
    assert abs(whole(leading(unit * given, 7)) / unit - whole((u[:, :7], s[:7], vt[:7]))).max() <= 1e-12


@pytest.mark.parametrize("decay", [0.0, 2.0, 6.0, 7.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_polar_factors_are_those_of_the_whole_decomposition(shape, decay):
    given = matrix(shape, decay)
    u, s, vt = np.linalg.svd(given, full_matrices=False)
    found, values = polar(given, np.linalg.norm(given))
    assert abs(values - s).max() <= 1e-12 * s[0]
    condition = s[0] / s[-1]
    assert abs(found - u @ vt).max() <= 1e-15 * max(1e3, 10 * condition)
    gram = found.T @ found if shape[0] >= shape[1] else found @ found.T
    assert abs(gram - np.eye(len(gram))).max() <= 1e-12


@pytest.mark.parametrize("shape", SHAPES[:4], ids=str)
def test_directions_without_a_length_stay_out_of_a_polar_factor(shape):
    rng = np.random.default_rng(1)
    given = rng.standard_normal((shape[0], 7)) @ rng.standard_normal((7, shape[1]))
    u, _, vt = np.linalg.svd(given, full_matrices=False)
    assert abs(polar(given, np.linalg.norm(given))[0] - u[:, :7] @ vt[:7]).max() <= 1e-10
    assert not polar(np.zeros(shape), 0.0)[0].any() and not polar(given, 1e15)[0].any()


@pytest.mark.parametrize("shape", SHAPES[:4], ids=str)
def test_quotients_are_those_of_the_inverse_of_squares(shape):
    rows = [matrix(shape, decay=1.0, seed=seed) for seed in range(3)]
    squares = sum(row.T @ row for row in rows)
    expected = np.stack(rows) @ np.linalg.inv(squares + 0.1 * np.eye(len(squares)))
    assert abs(np.stack(quotients(rows, 0.1, 0.0)) - expected).max() <= 1e-11
    left_out = np.stack(rows) @ np.linalg.pinv(squares, rtol=0.05, hermitian=True)
    assert abs(np.stack(quotients(rows, 0.0, 0.05)) - left_out).max() <= 1e-9 * abs(left_out).max()


def test_nothing_stays_nothing():
    assert polar(np.zeros((4, 0)), 0.0)[0].shape == (4, 0)
    assert [part.shape for part in leading(np.ones((4, 3)), 0)] == [(4, 0), (0,), (0, 3)]
