"""Laws of SWUDI, ASWUDI and OptMerge, which stop before the minimum of WUDI's loss, and of DOGE-TA; each against its oracle."""

import numpy as np
import oracles_matrix
import pytest
from cases import close, draw
from oracles_matrix import wudi_loss as loss

from nan_merge.methods import interference
from nan_merge.methods.context import TensorContext
from nan_merge.methods.covariance import actmat
from nan_merge.methods.interference import doge, optmerge, swudi, wudi

ALPHA = [1.2, 0.5, 1.3]
AT = TensorContext("layer.0.weight")
SHAPES = pytest.mark.parametrize("shape", [(7, 5), (5, 7), (6, 6), (1, 4), (4, 1), (1, 1), (2, 40)], ids=str)


@SHAPES
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(("time", "rank"), [(1300.0, 0.65), (3.0, 1.0), (None, 0.4), (None, "participation")])
def test_swudi_equals_its_oracle(shape, count, time, rank):
    taus = draw(count, *shape)
    close(swudi(taus, ALPHA[:count], AT, time=time, rank=rank), oracles_matrix.swudi(taus, ALPHA[:count], time, rank), rel=1e-9)


@SHAPES
@pytest.mark.parametrize("count", [1, 3])
def test_optmerge_equals_its_oracle(shape, count):
    taus = draw(count, *shape)
    found = optmerge(taus, ALPHA[:count], AT, steps=30, learning_rate=1e-2)
    close(found, oracles_matrix.optmerge(taus, ALPHA[:count], 30, 1e-2), rel=1e-6)


@pytest.mark.parametrize("method", [wudi, optmerge, doge])
def test_rows_are_moved_alike_in_blocks_and_all_at_once(method, monkeypatch):
    taus = draw(3, 23, 6)
    at_once = method(taus, ALPHA, AT, steps=30, learning_rate=1e-2)
    monkeypatch.setattr(interference, "BLOCK", 30)
    assert np.array_equal(method(taus, ALPHA, AT, steps=30, learning_rate=1e-2), at_once)


@pytest.mark.parametrize("method", [wudi, optmerge, doge])
def test_a_frozen_matrix_stays_and_takes_no_step(method, monkeypatch):
    monkeypatch.setattr(interference, "_move", None)
    assert not method([np.zeros((5, 4))] * 3, ALPHA, AT).any()


@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (6, 6), (3, 40), (1, 4), (1, 1)], ids=str)
@pytest.mark.parametrize("count", [2, 3])
def test_doge_equals_its_oracle(shape, count):
    taus, how = draw(count, *shape), {"density": 0.5, "subspace": 2, "steps": 30, "learning_rate": 1e-2}
    close(doge(taus, ALPHA[:count], AT, **how), oracles_matrix.doge(taus, ALPHA[:count], **how), rel=1e-6)


def test_what_doge_adds_lowers_the_interference():
    """With all entries kept the merge is sum_t c_t (tau_t + D), whose loss by rows falls; where all is shared, D is zero."""
    taus, c = draw(3, 9, 12), [0.3, 0.2, 0.4]

    def loss_of_rows(merged):
        return sum(((tau * (tau - merged)).sum(axis=1) ** 2).sum() for tau in taus)

    start, merged = (doge(taus, c, AT, density=1.0, subspace=3, steps=steps, learning_rate=1e-2) for steps in (0, 100))
    close(start, np.tensordot(c, taus, 1))
    assert loss_of_rows(merged) < 0.9 * loss_of_rows(start)
    close(doge(taus, c, AT, density=1.0, subspace=1), start, rel=1e-4)


def test_doge_of_one_expert_learns_nothing():
    """All its directions are shared alike, and which of them come first is arbitrary."""
    (tau,) = draw(1, 5, 6)
    close(doge([tau], [0.3], AT, density=1.0, subspace=2), 0.3 * tau, rel=1e-4)


def test_swudi_without_truncation_is_the_gradient_flow_of_the_loss():
    """Euler steps of the flow d tau / d t = -(tau C - D), half the gradient of WUDI's loss, from the sum of the task vectors."""
    taus, steps, time = draw(3, 6, 5), 20000, 4.0
    c = sum(a * t.T @ t / (t**2).sum() for a, t in zip(ALPHA, taus, strict=True))
    d = sum(a * t @ t.T @ t / (t**2).sum() for a, t in zip(ALPHA, taus, strict=True))
    tau = taus.sum(0)
    for _ in range(steps):
        tau = tau - time / steps * (tau @ c - d)
    close(swudi(taus, ALPHA, AT, time=time, rank=1.0), tau, rel=1e-3)


def test_swudi_runs_from_the_sum_to_the_exact_minimum_and_the_loss_falls():
    taus = draw(3, 9, 6)
    path = [swudi(taus, ALPHA, AT, time=time, rank=1.0) for time in (1e-9, 0.3, 3.0, 30.0, 1e6, None)]
    close(path[0], taus.sum(0), rel=1e-8)
    for end in path[-2:]:
        close(end, actmat(taus, ALPHA, AT, normalise="trace"), rel=1e-8)
    losses = [loss(tau, taus, ALPHA) for tau in path]
    assert losses == sorted(losses, reverse=True) and losses[0] > 1.5 * losses[-1]


def test_swudi_leaves_weak_directions_at_the_sum():
    """Along the eigenvectors beyond the rank, the merge is the sum of the task vectors."""
    taus = draw(3, 9, 6)
    curvature = sum(a * t.T @ t / (t**2).sum() for a, t in zip(ALPHA, taus, strict=True))
    weak, strong = np.split(np.linalg.eigh(curvature)[1], 2, axis=1)
    moved = swudi(taus, ALPHA, AT, time=None, rank=0.5) - taus.sum(0)
    assert abs(moved @ weak).max() < 1e-12 < 0.1 < abs(moved @ strong).max()


def test_experts_of_different_inputs_do_not_interfere():
    taus = np.zeros((3, 4, 9))
    for t in range(3):
        taus[t, :, 3 * t : 3 * t + 3] = draw(4, 3, seed=t)
    for how in ({}, {"time": None}, {"time": None, "rank": "participation"}):
        close(swudi(taus, ALPHA, AT, **how), taus.sum(0))


def test_the_number_of_participating_eigenvectors_is_that_of_equal_ones():
    """One expert with n equal singular values: the ratio counts n, so ASWUDI moves along all that the expert uses, and stays."""
    tau = np.zeros((6, 8))
    tau[:3, :3] = 2 * np.eye(3)
    close(swudi([tau], [1.0], AT, time=None, rank="participation"), tau)
    two = [tau, np.roll(tau, 3, axis=1)]
    close(swudi(two, [1.0, 1.0], AT, time=None, rank="participation"), sum(two))
