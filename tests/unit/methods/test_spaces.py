"""Spaces: their coordinates are lossless, equal those of the papers on dense matrices, and do not depend on arbitrary vectors."""

import copy
import functools

import numpy as np
import oracles_spaces
import pytest
from cases import variants

from nan_merge.core.errors import UserError
from nan_merge.methods.combine import disjoint_sum
from nan_merge.methods.context import TensorContext
from nan_merge.methods.recipe import bind, requirements
from nan_merge.methods.spaces import core, knots

SCALED = functools.partial(knots, singular_values="blocks")
SPACES = {"knots": knots, "knots scaled": SCALED, "core": core}
ORACLES = {
    "knots": oracles_spaces.knots,
    "knots scaled": functools.partial(oracles_spaces.knots, scaled=True),
    "core": oracles_spaces.core,
}
SIZES = {  # out, in, ranks
    "usual": (12, 9, (2, 3, 1)),
    "one expert": (12, 9, (4,)),
    "ranks that fill the outputs": (5, 20, (2, 3, 4)),
    "ranks that fill the inputs": (20, 5, (3, 3, 3)),
    "a rank above the inputs": (20, 3, (5, 2)),
    "a row": (1, 7, (1, 1)),
    "a column": (7, 1, (1, 1)),
}
every_space = pytest.mark.parametrize("space", SPACES)
every_size = pytest.mark.parametrize("size", SIZES)
C = (0.5, 0.2, 0.9)


def drawn(size, seed=0):
    """Return (B, A) of every expert."""
    out, into, ranks = SIZES[size]
    rng = np.random.default_rng(seed)
    return [(rng.standard_normal((out, rank)), rng.standard_normal((rank, into))) for rank in ranks]


def merged(found, merge):
    b, a = found.factors(merge(found.blocks))
    return b @ a


def ties(density=1.0):
    def merge(blocks):
        (whole,) = oracles_spaces.ties([[block] for block in blocks], density, C[: len(blocks)])
        return whole

    return merge


def close(found, expected, rel=1e-9):
    return np.abs(found - expected).max() <= rel * np.abs(expected).max()


@every_space
@every_size
def test_each_expert_comes_back_and_so_does_every_linear_merge(space, size):
    pairs = drawn(size)
    found = SPACES[space](pairs)
    for t, (b, a) in enumerate(pairs):
        assert close(merged(found, lambda blocks, t=t: blocks[t]), b @ a)
    whole = sum(c * b @ a for c, (b, a) in zip(C, pairs, strict=False))
    assert close(merged(found, lambda blocks: sum(c * block for c, block in zip(C, blocks, strict=False))), whole)


@every_space
@every_size
def test_blocks_have_the_shape_that_factors_tell(space, size):
    out, into, ranks = SIZES[size]
    found = SPACES[space](drawn(size))
    operator = getattr(SPACES[space], "func", SPACES[space])
    assert {block.shape for block in found.blocks} == {operator.shape(out, into, ranks)}


@every_space
@pytest.mark.parametrize("density", [1.0, 0.4])
@pytest.mark.parametrize("size", ["usual", "ranks that fill the outputs", "ranks that fill the inputs"])
def test_a_merge_of_coordinates_is_that_of_the_paper_on_dense_matrices(space, size, density):
    pairs = drawn(size)
    assert close(merged(SPACES[space](pairs), ties(density)), ORACLES[space](pairs, ties(density)))


@every_space
def test_the_combine_of_the_library_takes_the_blocks(space):
    pairs = drawn("usual")
    context = TensorContext("w")
    found = merged(SPACES[space](pairs), lambda blocks: disjoint_sum(blocks, C, context))
    assert close(found, ORACLES[space](pairs, ties()))
    assert not close(found, disjoint_sum([b @ a for b, a in pairs], C, context), rel=1e-3), "a space merges otherwise"


def test_where_the_singular_values_are_matters_to_magnitudes_alone():
    pairs = drawn("usual")
    assert close(merged(knots(pairs), ties()), merged(SCALED(pairs), ties()))
    assert not close(merged(knots(pairs), ties(0.4)), merged(SCALED(pairs), ties(0.4)), rel=1e-3)


@every_space
def test_common_factors_and_zeros_leave_out_arbitrary_vectors(space):
    """Experts with the same A, a copy of an expert, and an expert that is still zero: blocks keep their shape, with zero rows."""
    (b, a), (other, _), _ = drawn("usual")
    a, other = a[:2], other[:, :2]
    pairs = [(b, a), (other, a), (b, a), (0 * b, a)]
    found = SPACES[space](pairs)
    for t, (left, right) in enumerate(pairs):
        assert np.abs(merged(found, lambda blocks, t=t: blocks[t]) - left @ right).max() < 1e-12
    rows = np.abs(np.concatenate(found.blocks, axis=1)).max(axis=1)
    assert (rows > 0).sum() == np.linalg.matrix_rank(np.hstack([left @ right for left, right in pairs]))
    nothing = SPACES[space]([(0 * b, a), (0 * other, a)])
    assert not any(block.any() for block in nothing.blocks)


@every_space
def test_the_order_of_experts_does_not_matter(space):
    pairs = drawn("usual")
    sums = [merged(SPACES[space](each), lambda blocks: disjoint_sum(blocks, [1.0] * 3, None)) for each in (pairs, pairs[::-1])]
    assert close(*sums)


@every_space
def test_sizes_far_apart_lose_no_digits(space):
    """Factors of very different lengths, as a scale of rank-stabilised adapters makes them."""
    pairs = [(1e4 * b, a) if t else (b, 1e-3 * a) for t, (b, a) in enumerate(drawn("usual"))]
    found = SPACES[space](pairs)
    size = max(np.abs(b @ a).max() for b, a in pairs)
    for t, (b, a) in enumerate(pairs):
        assert np.abs(merged(found, lambda blocks, t=t: blocks[t]) - b @ a).max() < 1e-9 * size


BEYOND = {"combine": ("slerp", "karcher", "widen", "orthomerge", "gram", "fisher"), "preprocess": ("fusion",),
          "postprocess": ("scale_weights",)}  # fmt: skip


@pytest.mark.parametrize(("stage", "operator"), [(stage, name) for stage, names in BEYOND.items() for name in names])
def test_operators_that_need_more_than_task_vectors_are_refused(stage, operator):
    bind({stage: operator})
    with pytest.raises(UserError, match=f"the {stage} '{operator}' takes .*, which the space 'core' does not have"):
        bind({stage: operator, "space": "core"})


@pytest.mark.parametrize("stage", ["preprocess", "combine", "postprocess"])
def test_operators_that_are_not_declared_never_read_the_base(stage):
    base, *taus = np.random.default_rng(0).standard_normal((4, 6, 5))
    for name, operator in variants(stage).items():
        if getattr(operator.func, "of_weights", False) or getattr(operator.func, "requires", "thresholds") != "thresholds":
            continue
        inputs = {"preprocess": (taus[0],), "combine": (taus, C), "postprocess": (taus[0], taus)}[stage]
        found = [operator(*copy.deepcopy(inputs), TensorContext("w", base=known, task=0)) for known in (None, base)]
        assert np.array_equal(*found), name


def test_what_is_measured_names_its_space():
    spec = {"preprocess": {"trim": {"density": 0.3}}, "coefficients": {"nan": {"norm_of": "processed"}}}
    assert "space" not in requirements(spec)["thresholds"]
    within = requirements({**spec, "space": "knots"})
    assert within["thresholds"] == {"density": 0.3, "scope": "model", "space": {"knots": {"singular_values": "basis"}}}
    assert within["processed"]["space"] == within["thresholds"]["space"]
