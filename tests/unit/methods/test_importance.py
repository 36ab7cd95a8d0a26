"""Operators that look at lengths, overlaps and importance of entries: MAGIC, SCE, RAM, Localize-and-Stitch, mergekit's own."""

import functools
import math

import numpy as np
import oracles_operators
import pytest
from cases import close, draw

from nan_merge.methods.coefficients import metagpt, nan
from nan_merge.methods.combine import disjoint_mean, overlap_mean, weighted_sum
from nan_merge.methods.context import TensorContext
from nan_merge.methods.geometry import karcher
from nan_merge.methods.importance import fusion, ram_plus, sce
from nan_merge.methods.postprocess import magic
from nan_merge.methods.preprocess import clip, trim

C = [0.5, 0.2, 0.9]
SHAPES = pytest.mark.parametrize("shape", [(6, 9), (40,), (1,), (4, 3, 2), (9, 6, 1, 1)], ids=str)


def place(shape=(), **more):
    return TensorContext("layer.0.weight", base=draw(*shape, seed=9), **more)


# The lines of the papers: oracles_operators.py.


@SHAPES
def test_magic_equals_its_oracle(shape):
    taus = draw(3, *shape)
    close(magic(0.3 * taus.sum(0), taus, place(), factor=0.7), oracles_operators.magic(0.3 * taus.sum(0), taus, 0.7))


@SHAPES
@pytest.mark.parametrize("select", [1.0, 0.5, 0.1])
def test_sce_equals_its_oracle(shape, select):
    taus = draw(3, *shape)
    close(sce(taus, C, place(), select=select), oracles_operators.sce(taus, C, select))


@SHAPES
@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.5])
def test_averages_over_the_tasks_that_change_an_entry_equal_their_oracles(shape, threshold):
    taus = draw(3, *shape)
    of_entries = np.reshape(C, (3, *[1] * len(shape)))
    close(overlap_mean(taus, C, place(), threshold=threshold), oracles_operators.overlap(taus, of_entries, threshold))
    found = ram_plus(taus, C, place(), threshold=threshold, rescale=0.4, cap=0.7)
    close(found, oracles_operators.ram_plus(taus, C, threshold, 0.4, 0.7))


@SHAPES
def test_fusion_equals_its_oracle(shape):
    at, tau = place(shape), draw(*shape, size=0.3)
    close(fusion(tau, at), oracles_operators.fusion(tau, at.base))


@SHAPES
def test_karcher_without_iterations_is_multislerp(shape):
    """All its vectors are tangent at their own mean direction, so the step of Multi-SLERP in the tangent space is zero."""
    at, taus, shares = place(shape), draw(3, *shape), np.array(C) / sum(C)
    close(at.base + karcher(taus, C, at, iterations=0), oracles_operators.multislerp(at.base + taus, shares), rel=1e-8)


@SHAPES
def test_multislerp_of_task_vectors_is_nan_by_tensor_at_the_length_of_magic(shape):
    """mergekit's Multi-SLERP with a base: the direction of sum_t tau_t / |tau_t|, at the mean length."""
    taus = draw(3, *shape)
    norms = np.sqrt((taus**2).reshape(3, -1).sum(axis=1))
    found = magic(weighted_sum(taus, nan(norms).tolist(), place()), taus, place())
    close(found, oracles_operators.multislerp(taus, np.full(3, 1 / 3)), rel=1e-8)


@pytest.mark.parametrize("t", [1e-4, 0.3, 5.0])
def test_clipped_task_vectors_are_nearswap(t):
    """mergekit: weight * expert + (1 - weight) * base, weight = t / |expert - base|, at most 1."""
    base, tau = draw(200, seed=9), draw(200)
    weight = np.clip(t / abs(tau), 0, 1)
    close(base + clip(tau, place(), limit=t), weight * (base + tau) + (1 - weight) * base)


# Laws.


@SHAPES
def test_magic_gives_the_mean_length_whatever_scales_the_merge(shape):
    taus = draw(3, *shape, size=4.0)
    found = magic(taus.sum(0), taus, place())
    assert math.sqrt((found**2).sum()) == pytest.approx(np.mean([math.sqrt((tau**2).sum()) for tau in taus]))
    close(magic(1e-3 * taus.sum(0), taus, place()), found)


def test_magic_does_not_blow_up_rounding():
    (tau,) = draw(1, 6, 9)
    cancelled = (0.1 * tau + 0.2 * tau) - 0.3 * tau
    assert cancelled.any() and np.array_equal(magic(cancelled, [tau, -tau], place()), cancelled)


@SHAPES
def test_sce_is_metagpt_by_tensor_on_the_weighted_disjoint_mean(shape):
    """Mean squares of one tensor have the ratios of its squared norms: the weights are NAN's law with exponent -2."""
    taus = draw(3, *shape)
    weights = metagpt(np.sqrt((taus**2).reshape(3, -1).sum(axis=1))).tolist()
    expected = disjoint_mean(taus, weights, place(), elect="unweighted", divide_by="coefficients")
    close(sce(taus, [1.0] * 3, place()), expected)


def test_sce_selects_entries_on_which_experts_differ():
    taus = draw(3, 20, 20)
    assert (sce(taus, C, place(), select=0.1) != 0).sum() == 40
    alike = np.concatenate([taus, np.stack([taus[0]] * 3)], axis=1)
    assert not sce(alike, C, place(), select=0.5)[20:].any(), "what all experts agree on is not selected"
    assert not sce(np.stack([taus[0]] * 3), C, place(), select=0.5).any()


def test_what_one_task_alone_changes_is_taken_whole_and_what_several_change_is_averaged():
    taus, mask = draw(3, 60), np.zeros((3, 60))
    mask[0, :20], mask[1, 20:40], mask[2, 40:] = 1, 1, 1
    close(overlap_mean(taus * mask, [1.0] * 3, place()), (taus * mask).sum(0))
    close(overlap_mean(taus, [1.0] * 3, place()), taus.mean(0))
    cuts = np.sort(abs(taus), axis=1)[:, 54]
    kept = [trim(tau, place(threshold=cut)) for tau, cut in zip(taus, cuts, strict=True)]
    stitched = overlap_mean(kept, [1.0] * 3, place())
    assert 6 <= (stitched != 0).sum() <= 18, "the union of what the three tasks keep"
    assert all((stitched == tau)[(tau != 0) & (sum(other != 0 for other in kept) == 1)].all() for tau in kept)


def test_ram_plus_stretches_own_entries_by_what_a_task_shares():
    taus, at = draw(3, 500), place()
    plain, stretched = (ram_plus(taus, C, at, threshold=1.5, rescale=rescale) for rescale in (0.0, 0.5))
    close(plain, overlap_mean(taus, C, at, threshold=1.5))
    changed = abs(taus) > 1.5
    for mine in changed:
        own, shared = mine & (changed.sum(0) == 1), mine & (changed.sum(0) > 1)
        assert stretched[own] / plain[own] == pytest.approx(1 + 0.5 * shared.sum() / own.sum())
        close(stretched[shared], plain[shared])
    close(ram_plus(taus, C, at, threshold=1.5, rescale=0.5, cap=0.0), plain)
    lonely = np.diag([1.0, 2.0, 3.0])
    close(ram_plus(lonely, [1.0] * 3, place()), lonely.sum(0))


def test_fusion_keeps_outliers_of_importance_only():
    at, tau = place((50, 40)), draw(50, 40, size=0.01)
    tau[3] *= 30  # a row that diverges
    kept = fusion(tau, at) != 0
    assert 0 < kept.mean() < 0.15 and kept[3].mean() > 0.9
    assert not fusion(0 * tau, at).any()
    still = np.zeros((2, 3, 4))
    close(fusion(still + 1, TensorContext("w", base=still)), still + 1)  # no row diverges: nothing stands out, all stay


def test_the_weights_of_operators_do_not_depend_on_the_unit_of_the_task_vectors():
    taus = draw(3, 200)
    for operator in (sce, functools.partial(sce, select=0.3), overlap_mean, functools.partial(ram_plus, threshold=0.0)):
        for size in (1e-150, 1e100):
            close(operator(size * taus, C, place()) / size, operator(taus, C, place()))
