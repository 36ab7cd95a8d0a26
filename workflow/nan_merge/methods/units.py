"""Operators on networks without a common base, whose units were matched before: ZipIt!, permutations.

The units of one layer in T networks are put into n groups, as many as one network has units (`calibration.matching`). With
|g| units of all networks in group g, the groups are the merge matrices M_t and the unmerge matrices U_t of ZipIt!, both (n, n):

    M_t[g, j] = 1 / |g|,  U_t[j, g] = 1    where unit j of network t is in group g, 0 elsewhere
    W = sum_t M_t W_t U'_t,  b = sum_t M_t b_t    with U' of the layer before

`matched` maps the network t to T M_t W_t U'_t, so that the merge is the mean and `combine` may be another operator. A
permutation is the case of groups that have one unit of every network, where M_t = U_t^T / T.

The statistics of a tensor are, for every network, the groups of its outputs and then those of its inputs: (out,) of a bias,
(out + in,) of a weight. OWN stands for outputs that stay apart, in the layers above a partial zip.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from array_api_compat import device

from nan_merge.core.errors import UserError
from nan_merge.methods.combine import weighted_sum
from nan_merge.methods.context import Array, TensorContext, checked, namespace, requires, whole
from nan_merge.methods.matrices import or_one

OWN = -1
ONE_BASE = (
    "it matches the units of networks trained from different random weights (`network:` of a suite); the units of experts of"
    " one base are in one order already"
)


@requires("matching")
@whole
def matched(tau: Array, context: TensorContext) -> Array:
    """Bring the units of one network into the groups of all: T M_t W_t U'_t - W_0 (ZipIt!, arXiv 2305.03053, eq. 4 to 7).

    `tau` (out, in, ...) or (out,) is W_t - W_0. A tensor without statistics stays as it is; so do outputs that stay apart.

    Raises UserError for statistics of another shape.
    """
    if not len(context.calibration):
        return tau
    _check(tau.shape, context)
    xp, outputs, like = namespace(tau), tau.shape[0], {"dtype": tau.dtype, "device": device(tau)}
    statistics = [xp.asarray(each, **like) for each in context.calibration]
    groups = statistics[context.index]
    theta = (tau + context.base).reshape(outputs, *tau.shape[1:2], -1)  # (out, in, positions), or (out, 1)
    if tau.ndim > 1:
        unmerge = _members(groups[outputs:], like)
        theta = xp.matmul(xp.permute_dims(theta, (0, 2, 1)), unmerge.T)  # (out, positions, in)
        theta = xp.permute_dims(theta, (0, 2, 1))
    if is_merged(context, tau.shape):
        sizes = sum(_members(each[:outputs], like).sum(1) for each in statistics)
        merge = _members(groups[:outputs], like) * (len(statistics) / or_one(sizes))[:, None]
        theta = (merge @ theta.reshape(outputs, -1)).reshape(theta.shape)
    return theta.reshape(tau.shape) - context.base


def _members(groups: Array, like: dict[str, Any]) -> Array:
    """Return 1 where unit j is in group g, 0 elsewhere: (n, n) of groups (n,)."""
    xp = namespace(groups)
    return xp.astype(xp.arange(len(groups), **like)[:, None] == groups[None, :], like["dtype"])


def is_merged(context: TensorContext, shape: Sequence[int]) -> bool:
    """Return whether the outputs of a tensor are in groups with those of the other networks."""
    return len(context.calibration) > 0 and bool((context.calibration[0][: shape[0]] != OWN).all())


def _check(shape: Sequence[int], context: TensorContext) -> None:
    """Raise a UserError unless the statistics are the groups of the outputs and inputs of a tensor."""
    expected, found = sum(shape[:2]), [len(each) for each in context.calibration]
    if {*found} != {expected}:
        raise UserError(
            f"matched units of tensor '{context.tensor}' {list(shape)}: expected {expected} groups of every network, found"
            f" {found}; collect the calibration again with these experts"
        )


def _target(shape: tuple[int, ...], context: TensorContext) -> int:
    """Return the task of a context; UserError without one."""
    if context.task is None:
        raise UserError("shared_trunk makes a model for each task; name one with `--task`, or take a method with `static: true`")
    return context.task


@requires("matching")
@checked(_target)
@whole
def shared_trunk(taus: Sequence[Array], alpha: Sequence[float], context: TensorContext) -> Array:
    """Sum tensors whose outputs are matched, and keep those of the task's own network above (partial zip, section 4.3).

    All models of a merge have the same trunk, so one pass through it serves the layers of every task (ZipIt!, arXiv 2305.03053).
    DIFFERS: the authors write one model with several branches; here each task's model is a checkpoint of its own.
    """
    if is_merged(context, taus[0].shape):
        return weighted_sum(taus, alpha, context)
    return taus[_target(taus[0].shape, context)]


PREPROCESS = {f.__name__: f for f in (matched,)}
COMBINE = {f.__name__: f for f in (shared_trunk,)}
