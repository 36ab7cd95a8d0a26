"""Laws of OrthoMerge: rotations of the base are merged as rotations."""

import functools

import numpy as np
import oracles_matrix
import pytest
from cases import close, draw
from scipy.linalg import expm

from nan_merge.methods.context import TensorContext
from nan_merge.methods.orthogonal import orthomerge

C = [0.5, 0.2, 0.9]
SHAPES = pytest.mark.parametrize("shape", [(9, 6), (6, 9), (3, 9), (7, 7), (1, 4), (4, 1), (1, 1)], ids=str)


def at(base):
    return TensorContext("layer.0.weight", base=base)


def rotation(width, angle, seed=0):
    skew = draw(width, width, seed=seed)
    skew = skew - skew.T
    return expm(angle * skew / np.linalg.norm(skew))


def plane(angle):
    """Return the rotation of the first two of four inputs by an angle."""
    turned = np.eye(4)
    turned[:2, :2] = [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    return turned


@SHAPES
@pytest.mark.parametrize("rotate", ["all", "conflicts"])
def test_orthomerge_equals_its_oracle(shape, rotate):
    base, taus = draw(*shape, seed=9), draw(3, *shape, size=0.2)
    found = orthomerge(taus, C, at(base), rotate=rotate)
    if shape[1] > 1:  # a single input has no rotation, so the oracle has no direction to divide by
        close(found, oracles_matrix.orthomerge(base, taus, C, rotate == "conflicts"), rel=1e-6)
    else:
        close(found, np.tensordot(C, taus, 1) / 3)


@SHAPES
@pytest.mark.parametrize("rotate", ["all", "conflicts"])
def test_orthomerge_of_one_or_of_identical_experts_is_the_expert(shape, rotate):
    base, tau = draw(*shape, seed=9), draw(*shape, size=0.5)
    operator = functools.partial(orthomerge, context=at(base), rotate=rotate)
    close(operator([tau], [1.0]), tau, rel=1e-9)
    close(operator([tau] * 3, [1.0] * 3), tau, rel=1e-9)


def test_experts_that_are_rotations_of_the_base_merge_into_a_rotation_of_it():
    base = draw(9, 6, seed=9)
    taus = [base @ rotation(6, 0.7, seed) - base for seed in range(3)]
    merged = base + orthomerge(taus, [1.0] * 3, at(base))
    close(np.linalg.svd(merged, compute_uv=False), np.linalg.svd(base, compute_uv=False))
    average = base + np.mean(taus, axis=0)
    assert np.linalg.norm(average) < 0.99 * np.linalg.norm(base), "an average of rotations is shorter"


def test_rotations_in_one_plane_turn_by_the_mean_of_the_tangents_of_half_angles():
    base, angles = draw(5, 4, seed=9), np.array([0.2, 0.5, 0.9])
    taus = [base @ plane(angle) - base for angle in angles]
    together = 2 * np.arctan(np.tan(angles / 2).mean())
    close(base + orthomerge(taus, [1.0] * 3, at(base)), base @ plane(together), rel=1e-9)
    opposite = [base @ plane(angle) - base for angle in (0.5, -0.5)]
    close(orthomerge(opposite, [1.0] * 2, at(base)), 0 * base, rel=1e-9, size=1.0)


def test_an_expert_that_equals_the_base_turns_nothing():
    base, tau = draw(6, 5, seed=9), draw(6, 5, size=0.3)
    assert not orthomerge([0 * tau] * 2, [1.0] * 2, at(base)).any()
    close(orthomerge([tau, 0 * tau], [1.0, 0.0], at(base)), orthomerge([tau, tau], [1.0, 0.0], at(base)))


def test_inputs_that_the_weights_do_not_use_are_not_turned():
    """Columns of zeros leave a rotation open: theirs is none, so the others merge as if they were not there."""
    base, taus = draw(8, 4, seed=9), draw(3, 8, 4, size=0.2)
    wide = [np.pad(each, ((0, 0), (0, 3))) for each in (base, *taus)]
    close(orthomerge(wide[1:], C, at(wide[0])), np.pad(orthomerge(taus, C, at(base)), ((0, 0), (0, 3))), rel=1e-9)


def test_a_reflection_is_no_rotation_and_is_left_to_the_mean():
    base = draw(6, 5, seed=9)
    mirrored = base @ np.diag([1.0, 1, 1, 1, -1])
    close(base + orthomerge([mirrored - base], [1.0], at(base)), mirrored, rel=1e-9)


def test_conflicts_turn_less_than_all():
    base, taus = draw(30, 6, seed=9), draw(3, 30, 6, size=0.3)
    agreeing = taus + 10 * draw(30, 6, seed=5, size=0.3)  # no row opposes the mean: nothing is turned
    close(orthomerge(agreeing, C, at(base), rotate="conflicts"), np.tensordot(C, agreeing, 1) / 3)
    assert abs(orthomerge(taus, C, at(base), rotate="conflicts") - orthomerge(taus, C, at(base))).max() > 1e-3
