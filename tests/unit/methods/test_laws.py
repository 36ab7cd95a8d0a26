"""Laws of the operators: they hold for every operator of every stage, so a new operator is covered by being in its dict.

A choice that an operator offers (a hyper-parameter with a few values) is an operator of its own here.
"""

import dataclasses

import numpy as np
import pytest
from cases import (
    ALPHA,
    SHAPES,
    agreement,
    as_torch,
    case,
    close,
    context,
    draw,
    edges,
    every,
    experts_of,
    frozen,
    is_whole,
    takes_matrices,
    variants,
)

from nan_merge.core.errors import UserError
from nan_merge.methods.coefficients import what_it_reads
from nan_merge.methods.context import TensorContext
from nan_merge.methods.recipe import DEFAULTS, STAGES, hyper_parameters

EDGES = edges()
NORMS = np.array([1.0, 2.0, 4.0, 0.5])
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
every_edge = pytest.mark.parametrize("taus", EDGES.values(), ids=EDGES)


def test_defaults_are_operators():
    assert DEFAULTS.keys() == STAGES.keys()
    assert all(DEFAULTS[stage] in STAGES[stage] for stage in STAGES)


# Preprocess and postprocess: one task vector in, one out; postprocess also sees those that were combined.


def of_one_tensor(chosen=lambda operator: True):
    """Parametrise a test over the variants of the operators of both stages that are chosen."""
    found = {f"{stage}-{name}": o for stage in ("preprocess", "postprocess") for name, o in variants(stage).items() if chosen(o)}
    return pytest.mark.parametrize("operator", found.values(), ids=found)


def moves_the_base(operator):
    """Return whether an operator scales whole weights, as a control: no map of task vectors, so the laws of these do not hold."""
    return operator.func is STAGES["postprocess"]["scale_weights"]


def applied(operator, taus, at):
    """Apply an operator to a sum of task vectors that cannot be written to; operators for pieces see no others."""
    tau = np.asarray(0.3 * np.sum(taus, axis=0, dtype=taus[0].dtype), taus[0].dtype)
    frozen(tau)
    if operator.func in STAGES["preprocess"].values():
        return operator(tau, at)
    return operator(tau, taus if is_whole(operator) else (), at)


@of_one_tensor()
@every_shape
def test_an_operator_of_one_tensor_keeps_type_shape_zeros_and_its_inputs_and_repeats_itself(operator, shape):
    for kind in (np.float64,) if is_whole(operator) else (np.float32, np.float64):
        taus, at = np.asarray(draw(3, *shape), kind), context(operator, shape)
        (before,) = frozen(taus)
        found = applied(operator, taus, at)
        assert (found.dtype, found.shape) == (kind, shape)
        assert np.array_equal(applied(operator, list(taus), at), found)
        assert np.array_equal(taus, before)
        assert moves_the_base(operator) or not np.any(applied(operator, 0 * taus, at))


@of_one_tensor()
@every_edge
def test_an_operator_of_one_tensor_is_finite_and_gives_the_same_on_torch(operator, taus):
    torch = pytest.importorskip("torch")
    at = context(operator, taus.shape[1:])
    found = applied(operator, taus, at)
    assert np.isfinite(found).all()
    of_preprocess = operator.func in STAGES["preprocess"].values()
    others = () if of_preprocess else (as_torch(taus),)
    moved = operator(as_torch(np.asarray(0.3 * taus.sum(0))), *others, as_torch(at))
    assert isinstance(moved, torch.Tensor) and moved.dtype == torch.float64
    close(moved.numpy(), found, rel=1e-10 if of_preprocess else 1e-8, size=abs(taus).max(initial=0))


@of_one_tensor(lambda operator: not is_whole(operator))
def test_an_operator_of_one_tensor_does_not_see_where_pieces_end(operator):
    taus, at = draw(3, 4000).astype(np.float32), context(operator, (4000,))
    spans = ((0, 7), (7, 1000), (1000, 4000))
    parts = [applied(operator, taus[:, a:b], dataclasses.replace(at, start=a)) for a, b in spans]
    assert np.concatenate(parts).tobytes() == applied(operator, taus, at).tobytes()


@of_one_tensor(lambda operator: is_whole(operator) and not moves_the_base(operator))
def test_an_operator_of_one_matrix_stored_turned_gives_the_result_turned(operator):
    """Random draws go by the place of an entry, so those operators keep as many of it instead of the same."""
    taus, at = draw(3, 31, 17), context(operator, (31, 17))
    expected = applied(operator, taus, at)
    turned = dataclasses.replace(context(operator, (17, 31), transposed=True), base=at.base.T)
    found = applied(operator, taus.transpose(0, 2, 1).copy(), turned).T
    if np.array_equal(expected, applied(operator, taus, dataclasses.replace(at, seed=2))):
        close(found, expected)
    else:
        assert (found == 0).mean() == pytest.approx((expected == 0).mean(), abs=0.1)


# Combine: T task vectors and T coefficients in, one out.

every_combine = every("combine")
every_postprocess = every("postprocess")


@every_combine
@every_shape
def test_combine_keeps_type_shape_and_its_inputs_repeats_itself_and_gives_zero_for_zeros(operator, shape):
    """Experts that equal the base give the base, to the last bit."""
    for kind in (np.float64,) if is_whole(operator) else (np.float32, np.float64):
        taus, alpha, at = case(operator, shape)
        taus = taus.astype(kind)
        before = frozen(taus, at.base, *at.calibration)
        found = operator(taus, alpha, at)
        assert (found.dtype, found.shape) == (kind, shape)
        assert np.array_equal(operator(list(taus), alpha, at), found)
        assert all(np.array_equal(a, b) for a, b in zip(before, (taus, at.base, *at.calibration), strict=True))
        assert alpha == ALPHA[: len(alpha)]
        assert not np.any(operator(0 * taus, alpha, at))


@every_combine
@every_shape
def test_combine_does_not_see_the_order_of_experts(operator, shape):
    taus, alpha, at = case(operator, shape)
    for order in ([1, 0],) if len(taus) == 2 else ([2, 0, 1], [1, 0, 2]):
        turned = dataclasses.replace(at, calibration=[at.calibration[t] for t in order if at.calibration], task=order.index(0))
        close(operator(taus[order], [alpha[t] for t in order], turned), operator(taus, alpha, at), rel=1e-8)


@every_combine
def test_coefficients_of_combine_matter(operator):
    taus, alpha, at = case(operator, (20, 16))
    assert abs(operator(taus, alpha, at) - operator(taus, alpha[::-1], at)).max() > 1e-6


@every_combine
@pytest.mark.parametrize("edge", EDGES)
def test_combine_is_finite_and_gives_the_same_on_torch(operator, edge):
    torch = pytest.importorskip("torch")
    taus = EDGES[edge]
    count, shape = experts_of(operator), taus.shape[1:]
    at = context(operator, shape, count)
    found = operator(taus[:count], ALPHA[:count], at)
    assert found.shape == shape
    assert np.isfinite(found).all()
    moved = operator(as_torch(taus[:count]), ALPHA[:count], as_torch(at))
    assert isinstance(moved, torch.Tensor) and moved.dtype == torch.float64
    if (rel := agreement(operator, edge)) is not None:
        close(moved.numpy(), found, rel=rel, size=abs(taus).max(initial=0))


@every_combine
@pytest.mark.parametrize("kind", ["no base", "no calibration", "first only", "none", "alone", "eight"])
def test_combine_is_finite_whatever_surrounds_it(operator, kind):
    taus, alpha, at = case(operator)
    if kind == "no base":
        at = dataclasses.replace(at, base=0 * at.base)
    elif kind == "no calibration":
        at = dataclasses.replace(at, calibration=[0 * each for each in at.calibration])
    elif kind in ("first only", "none"):
        alpha = [1.0 if kind == "first only" and not t else 0.0 for t in range(len(taus))]
    elif experts_of(operator) == 3:
        count = {"alone": 1, "eight": 8}[kind]
        taus, alpha, at = draw(count, 6, 9), [0.4] * count, context(operator, (6, 9), count)
    assert np.isfinite(operator(taus, alpha, at)).all()
    assert np.isfinite(operator(as_torch(taus), alpha, as_torch(at)).numpy()).all()


@every_combine
def test_an_operator_declares_whether_it_sees_a_common_factor_of_the_coefficients(operator):
    """A choice of an operator may see none where its default does."""
    taus, alpha, at = case(operator, (20, 16))
    found, doubled = (operator(taus, [factor * each for each in alpha], at) for factor in (1, 2))
    apart = abs(doubled - found).max() / abs(found).max()
    if hasattr(operator.func, "scale_free"):
        assert apart < 1e-6 or operator.keywords
    else:
        assert apart > 1e-6 or operator.keywords


@every_postprocess
def test_a_postprocess_declares_whether_it_sees_the_length_of_the_merge(operator):
    taus, at = draw(3, 20, 16), context(operator, (20, 16))
    found, doubled = (operator(factor * taus.sum(0), taus, at) for factor in (1, 2))
    assert (abs(doubled - found).max() < 1e-9 * abs(found).max()) == hasattr(operator.func, "scale_free")


@every("combine", lambda operator: not is_whole(operator))
def test_combine_does_not_see_where_pieces_end(operator):
    taus, at = draw(3, 4000).astype(np.float32), context(operator, (4000,))
    parts = []
    for start, stop in ((0, 7), (7, 1000), (1000, 4000)):
        part = dataclasses.replace(at, start=start, base=None, calibration=[each[start:stop] for each in at.calibration])
        parts.append(operator(taus[:, start:stop], ALPHA, part))
    assert np.concatenate(parts).tobytes() == operator(taus, ALPHA, at).tobytes()


@every("combine", is_whole)
@pytest.mark.parametrize("shape", [(31, 17), (17, 31), (20, 20)], ids=str)
def test_combine_of_a_matrix_stored_turned_gives_the_result_turned(operator, shape):
    taus, alpha, at = case(operator, shape)
    turned = dataclasses.replace(at, base=at.base.T, transposed=True)
    close(operator(np.ascontiguousarray(taus.transpose(0, 2, 1)), alpha, turned).T, operator(taus, alpha, at), rel=1e-9)


@every("combine", takes_matrices)
@pytest.mark.parametrize("shape", [(5,), (1,), (), (4, 3, 2), (4, 3, 2, 2)], ids=str)
def test_what_is_no_matrix_gets_the_mean_of_the_weighted_task_vectors(operator, shape):
    """Law 15: tensors of CART that are no matrices are the average; so are those of the other operators of matrices."""
    taus, alpha, at = case(operator, shape)
    close(operator(taus, alpha, at), np.tensordot(alpha, taus, 1) / 3)


@every("combine", takes_matrices)
def test_matrices_can_be_excluded_and_large_ones_are_refused(operator):
    taus, alpha, at = case(operator, (20, 20))
    close(operator(taus, alpha, at, exclude=r"^layer\.\d"), np.tensordot(alpha, taus, 1) / 3)
    with pytest.raises(UserError, match=r"layer\.0\.weight.*\[20, 20\].*exclude"):
        operator(taus, alpha, at, largest=19)
    assert operator(taus, alpha, at, largest=20).shape == (20, 20)


@every("combine", takes_matrices)
def test_a_convolution_over_single_pixels_is_a_matrix(operator):
    taus, alpha, at = case(operator, (9, 6))
    pixels = dataclasses.replace(at, base=at.base[..., None, None])
    close(operator(taus[..., None, None], alpha, pixels)[..., 0, 0], operator(taus, alpha, at))


@every_postprocess
def test_postprocess_does_not_see_the_order_of_experts(operator):
    taus, at = draw(3, 20, 16), context(operator, (20, 16))
    close(applied(operator, taus[[2, 0, 1]], at), applied(operator, taus, at))


@every_postprocess
def test_postprocess_grows_with_what_goes_in(operator):
    taus, at = draw(3, 20, 16), context(operator, (20, 16))
    nothing = applied(operator, 0 * taus, at)
    assert moves_the_base(operator) or not nothing.any()
    close(applied(operator, 1e3 * taus, at) - nothing, 1e3 * (applied(operator, taus, at) - nothing))


@pytest.mark.parametrize("stage", ["preprocess", "postprocess"])
def test_operators_of_one_matrix_leave_others_and_those_that_are_excluded(stage):
    for name, operator in STAGES[stage].items():
        if "exclude" in hyper_parameters(operator):
            matrix, filters = draw(20, 20), draw(4, 3, 2)
            given = {"preprocess": lambda tau: (tau,), "postprocess": lambda tau: (tau, np.stack([tau] * 3))}[stage]
            at = TensorContext("block.0.weight")
            assert operator(*given(filters), at).tobytes() == filters.tobytes(), name
            assert operator(*given(matrix), at, exclude=r"^block\.").tobytes() == matrix.tobytes(), name
            with pytest.raises(UserError, match=r"block\.0\.weight"):
                operator(*given(matrix), at, largest=19)


# Coefficients: T norms (or numbers of examples) in, T coefficients out; `given` and `multiples` read names.

every_coefficient = every("coefficients", lambda operator: operator.func.__name__ not in ("given", "multiples"))
every_control = every("control")


@every_coefficient
def test_coefficients_are_one_an_expert(operator):
    (before,) = frozen(NORMS)
    found = operator(NORMS)
    assert found.shape == NORMS.shape
    assert np.isfinite(found).all()
    assert found.tobytes() == operator(NORMS).tobytes()
    assert NORMS.tobytes() == before.tobytes()


@every_coefficient
def test_coefficients_follow_their_experts(operator):
    """Law 1: they are permuted as the norms are."""
    order = [2, 0, 3, 1]
    assert operator(NORMS[order]) == pytest.approx(operator(NORMS)[order], rel=1e-15)


@every_coefficient
def test_equal_norms_give_equal_coefficients(operator):
    """Law 1."""
    for norm in (3.7, 0.0) if what_it_reads(operator) == "norms" else (3.7,):  # 0: all experts equal the base
        found = operator(np.full(5, norm))
        assert found == pytest.approx(np.full(5, found[0]), rel=1e-15)


@every_coefficient
def test_one_expert_alone_gets_one_coefficient(operator):
    assert operator(np.array([3.0])).tolist() in ([1.0], [0.3])


@every_control
def test_controls_keep_the_mean_and_the_given_row(operator):
    row = np.array([0.1, 0.2, 0.7])
    (before,) = frozen(row)
    assert operator(row).mean() == pytest.approx(row.mean(), rel=1e-15)
    assert row.tobytes() == before.tobytes()
    assert operator(np.array([0.4])).tolist() == [0.4]
