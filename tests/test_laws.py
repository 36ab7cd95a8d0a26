"""Laws of the words: they hold for every word of every slot, so a new word is covered by being in its dict.

A choice that a word offers (a hyper-parameter with a few values) is a word of its own here.
"""

import dataclasses
import inspect

import numpy as np
import pytest
from cases import (
    ALPHA,
    SHAPES,
    agreement,
    as_torch,
    case,
    close,
    draw,
    edges,
    every,
    experts_of,
    frozen,
    is_whole,
    site,
    takes_matrices,
)

from merging.recipe import DEFAULTS, SLOTS, hyper_parameters
from merging.results import UserError
from merging.schema import of_type, summary
from merging.tensors import Site

EDGES = edges()
NORMS = np.array([1.0, 2.0, 4.0, 0.5])
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
every_edge = pytest.mark.parametrize("taus", EDGES.values(), ids=EDGES)
words = [(slot, name) for slot in SLOTS for name in SLOTS[slot]]


@pytest.mark.parametrize(("slot", "name"), words, ids=["-".join(each) for each in words])
def test_words_say_what_they_do_and_take(slot, name):
    word = SLOTS[slot][name]
    assert word.__name__ == name
    assert len(summary(word).split()) > 4
    for key, (kind, default) in hyper_parameters(word).items():
        schema = of_type(kind)
        assert schema, f"{key} has no type"
        if default is not inspect.Parameter.empty and schema.get("type") == "number":
            assert schema.get("minimum", default) <= default <= schema.get("maximum", default)


@pytest.mark.parametrize(("slot", "name"), [(s, n) for s, n in words if hasattr(SLOTS[s][n], "refuses")])
def test_words_that_refuse_say_why(slot, name):
    with pytest.raises(UserError, match=name):
        SLOTS[slot][name](draw(3, 6, 9), ALPHA, Site("w"))


def test_defaults_are_words():
    assert all(DEFAULTS[slot] in SLOTS[slot] for slot in SLOTS)


# Preprocess: one task vector in, one out.

every_preprocess = every("preprocess")


@every_preprocess
@every_shape
def test_preprocess_keeps_type_and_shape_and_zeros(word, shape):
    for kind in (np.float64,) if is_whole(word) else (np.float32, np.float64):
        tau = np.asarray(draw(*shape), kind)
        found = word(tau, site(word, shape))
        assert (found.dtype, found.shape) == (kind, shape)
        assert not np.any(word(0 * tau, site(word, shape)))


@every_preprocess
@every_shape
def test_preprocess_leaves_its_input_and_repeats_itself(word, shape):
    tau = np.asarray(draw(*shape))
    (before,) = frozen(tau)
    assert np.array_equal(word(tau, site(word, shape)), word(tau, site(word, shape)))
    assert np.array_equal(tau, before)


@every_preprocess
@every_edge
def test_preprocess_is_finite_and_gives_the_same_on_torch(word, taus):
    torch = pytest.importorskip("torch")
    tau = np.asarray(taus[0])
    found = word(tau, site(word, tau.shape))
    assert np.isfinite(found).all()
    moved = word(as_torch(tau), as_torch(site(word, tau.shape)))
    assert isinstance(moved, torch.Tensor) and moved.dtype == torch.float64
    close(moved.numpy(), found, size=abs(tau).max(initial=0))


@every("preprocess", lambda word: not is_whole(word))
def test_preprocess_does_not_see_where_pieces_end(word):
    tau, at = draw(4000).astype(np.float32), site(word, (4000,))
    parts = [word(tau[a:b], dataclasses.replace(at, start=a)) for a, b in ((0, 7), (7, 1000), (1000, 4000))]
    assert np.concatenate(parts).tobytes() == word(tau, at).tobytes()


@every("preprocess", is_whole)
def test_preprocess_of_a_matrix_stored_turned_gives_the_result_turned(word):
    """Random draws go by the place of an entry, so those words keep as many of it instead of the same."""
    tau = draw(31, 17)
    found = word(tau.T.copy(), site(word, (17, 31), transposed=True)).T
    if np.array_equal(word(tau, site(word, (31, 17))), word(tau, dataclasses.replace(site(word, (31, 17)), seed=2))):
        close(found, word(tau, site(word, (31, 17))))
    else:
        assert (found == 0).mean() == pytest.approx((word(tau, site(word, (31, 17))) == 0).mean(), abs=0.1)


# Combine: T task vectors and T coefficients in, one out.

every_combine = every("combine")


@every_combine
@every_shape
def test_combine_keeps_type_and_shape_and_gives_zero_for_zeros(word, shape):
    """Experts that equal the base give the base, to the last bit."""
    taus, alpha, at = case(word, shape)
    for kind in (np.float64,) if is_whole(word) else (np.float32, np.float64):
        found = word(taus.astype(kind), alpha, at)
        assert (found.dtype, found.shape) == (kind, shape)
        assert not np.any(word(0 * taus.astype(kind), alpha, at))


@every_combine
@every_shape
def test_combine_leaves_its_inputs_and_repeats_itself(word, shape):
    taus, alpha, at = case(word, shape)
    before = frozen(taus, at.base, *at.evidence)
    assert np.array_equal(word(taus, alpha, at), word(taus, alpha, at))
    assert np.array_equal(word(taus, alpha, at), word(list(taus), alpha, at))
    assert all(np.array_equal(a, b) for a, b in zip(before, (taus, at.base, *at.evidence), strict=True))
    assert alpha == ALPHA[: len(alpha)]


@every_combine
@every_shape
def test_combine_does_not_see_the_order_of_experts(word, shape):
    taus, alpha, at = case(word, shape)
    for order in ([1, 0],) if len(taus) == 2 else ([2, 0, 1], [1, 0, 2]):
        turned = dataclasses.replace(at, evidence=[at.evidence[t] for t in order if at.evidence], task=order.index(0))
        close(word(taus[order], [alpha[t] for t in order], turned), word(taus, alpha, at), rel=1e-8)


@every_combine
def test_coefficients_of_combine_matter(word):
    taus, alpha, at = case(word, (20, 16))
    assert abs(word(taus, alpha, at) - word(taus, alpha[::-1], at)).max() > 1e-6


@every_combine
@pytest.mark.parametrize("edge", EDGES)
def test_combine_is_finite_and_gives_the_same_on_torch(word, edge):
    torch = pytest.importorskip("torch")
    taus = EDGES[edge]
    count, shape = experts_of(word), taus.shape[1:]
    at = site(word, shape, count)
    found = word(taus[:count], ALPHA[:count], at)
    assert found.shape == shape
    assert np.isfinite(found).all()
    moved = word(as_torch(taus[:count]), ALPHA[:count], as_torch(at))
    assert isinstance(moved, torch.Tensor) and moved.dtype == torch.float64
    if (rel := agreement(word, edge)) is not None:
        close(moved.numpy(), found, rel=rel, size=abs(taus).max(initial=0))


@every_combine
@pytest.mark.parametrize("kind", ["no base", "no evidence", "first only", "none", "alone", "eight"])
def test_combine_is_finite_whatever_surrounds_it(word, kind):
    taus, alpha, at = case(word)
    if kind == "no base":
        at = dataclasses.replace(at, base=0 * at.base)
    elif kind == "no evidence":
        at = dataclasses.replace(at, evidence=[0 * each for each in at.evidence])
    elif kind in ("first only", "none"):
        alpha = [1.0 if kind == "first only" and not t else 0.0 for t in range(len(taus))]
    elif experts_of(word) == 3:
        count = {"alone": 1, "eight": 8}[kind]
        taus, alpha, at = draw(count, 6, 9), [0.4] * count, site(word, (6, 9), count)
    assert np.isfinite(word(taus, alpha, at)).all()
    assert np.isfinite(word(as_torch(taus), alpha, as_torch(at)).numpy()).all()


@every("combine", lambda word: not is_whole(word))
def test_combine_does_not_see_where_pieces_end(word):
    taus, at = draw(3, 4000).astype(np.float32), site(word, (4000,))
    parts = []
    for start, stop in ((0, 7), (7, 1000), (1000, 4000)):
        part = dataclasses.replace(at, start=start, base=None, evidence=[each[start:stop] for each in at.evidence])
        parts.append(word(taus[:, start:stop], ALPHA, part))
    assert np.concatenate(parts).tobytes() == word(taus, ALPHA, at).tobytes()


@every("combine", is_whole)
@pytest.mark.parametrize("shape", [(31, 17), (17, 31), (20, 20)], ids=str)
def test_combine_of_a_matrix_stored_turned_gives_the_result_turned(word, shape):
    taus, alpha, at = case(word, shape)
    turned = dataclasses.replace(at, base=at.base.T, transposed=True)
    close(word(np.ascontiguousarray(taus.transpose(0, 2, 1)), alpha, turned).T, word(taus, alpha, at), rel=1e-9)


@every("combine", takes_matrices)
@pytest.mark.parametrize("shape", [(5,), (1,), (), (4, 3, 2), (4, 3, 2, 2)], ids=str)
def test_what_is_no_matrix_gets_the_mean_of_the_weighted_task_vectors(word, shape):
    """Law 15: tensors of CART that are no matrices are the average; so are those of the other words of matrices."""
    taus, alpha, at = case(word, shape)
    close(word(taus, alpha, at), np.tensordot(alpha, taus, 1) / 3)


@every("combine", takes_matrices)
def test_matrices_can_be_excluded_and_large_ones_are_refused(word):
    taus, alpha, at = case(word, (20, 20))
    close(word(taus, alpha, at, exclude=r"^layer\.\d"), np.tensordot(alpha, taus, 1) / 3)
    with pytest.raises(UserError, match=r"layer\.0\.weight.*\[20, 20\].*exclude"):
        word(taus, alpha, at, largest=19)
    assert word(taus, alpha, at, largest=20).shape == (20, 20)


@every("combine", takes_matrices)
def test_a_convolution_over_single_pixels_is_a_matrix(word):
    taus, alpha, at = case(word, (9, 6))
    pixels = dataclasses.replace(at, base=at.base[..., None, None])
    assert np.array_equal(word(taus[..., None, None], alpha, pixels)[..., 0, 0], word(taus, alpha, at))


# Postprocess: the merged task vector in, with those that were combined, and out.

every_postprocess = every("postprocess")


def postprocessed(word, taus, at):
    """Apply a word to a sum of task vectors; words for pieces do not see those that were combined."""
    return word(np.asarray(0.3 * taus.sum(0)), taus if is_whole(word) else (), at)


@every_postprocess
@every_shape
def test_postprocess_keeps_type_and_shape_and_zeros(word, shape):
    for kind in (np.float64,) if is_whole(word) else (np.float32, np.float64):
        taus, at = np.asarray(draw(3, *shape), kind), site(word, shape)
        found = word(np.asarray(taus[0]), taus if is_whole(word) else (), at)
        assert (found.dtype, found.shape) == (kind, shape)
        assert not np.any(postprocessed(word, 0 * taus, at))


@every_postprocess
@every_shape
def test_postprocess_leaves_its_inputs_and_repeats_itself(word, shape):
    taus, at = draw(3, *shape), site(word, shape)
    merged = np.asarray(taus.sum(0))
    before = frozen(taus, merged)
    assert np.array_equal(word(merged, taus, at), word(merged, list(taus), at))
    assert all(np.array_equal(a, b) for a, b in zip(before, (taus, merged), strict=True))


@every_postprocess
@every_edge
def test_postprocess_is_finite_and_gives_the_same_on_torch(word, taus):
    torch = pytest.importorskip("torch")
    at = site(word, taus.shape[1:])
    found = postprocessed(word, taus, at)
    assert np.isfinite(found).all()
    moved = word(as_torch(np.asarray(0.3 * taus.sum(0))), as_torch(taus), as_torch(at))
    assert isinstance(moved, torch.Tensor) and moved.dtype == torch.float64
    close(moved.numpy(), found, rel=1e-8, size=abs(taus).max(initial=0))


@every_postprocess
def test_postprocess_does_not_see_the_order_of_experts(word):
    taus, at = draw(3, 20, 16), site(word, (20, 16))
    close(postprocessed(word, taus[[2, 0, 1]], at), postprocessed(word, taus, at))


@every_postprocess
def test_postprocess_grows_with_what_goes_in(word):
    taus, at = draw(3, 20, 16), site(word, (20, 16))
    close(postprocessed(word, 1e3 * taus, at), 1e3 * postprocessed(word, taus, at))


@every("postprocess", lambda word: not is_whole(word))
def test_postprocess_does_not_see_where_pieces_end(word):
    merged, at = draw(4000).astype(np.float32), site(word, (4000,))
    parts = [word(merged[a:b], (), dataclasses.replace(at, start=a)) for a, b in ((0, 7), (7, 4000))]
    assert np.concatenate(parts).tobytes() == word(merged, (), at).tobytes()


@every("postprocess", is_whole)
def test_postprocess_of_a_matrix_stored_turned_gives_the_result_turned(word):
    taus = draw(3, 31, 17)
    turned = postprocessed(word, taus.transpose(0, 2, 1), site(word, (17, 31), transposed=True))
    close(turned.T, postprocessed(word, taus, site(word, (31, 17))))


@pytest.mark.parametrize("slot", ["preprocess", "postprocess"])
def test_words_of_one_matrix_leave_others_and_those_that_are_excluded(slot):
    for name, word in SLOTS[slot].items():
        if "exclude" in hyper_parameters(word):
            matrix, filters = draw(20, 20), draw(4, 3, 2)
            given = {"preprocess": lambda tau: (tau,), "postprocess": lambda tau: (tau, np.stack([tau] * 3))}[slot]
            at = Site("block.0.weight")
            assert word(*given(filters), at).tobytes() == filters.tobytes(), name
            assert word(*given(matrix), at, exclude=r"^block\.").tobytes() == matrix.tobytes(), name
            with pytest.raises(UserError, match=r"block\.0\.weight"):
                word(*given(matrix), at, largest=19)


# Coefficients: T norms in, T coefficients out.

every_coefficient = every("coefficients")
every_control = every("control")


@every_coefficient
def test_coefficients_are_one_an_expert(word):
    (before,) = frozen(NORMS)
    found = word(NORMS)
    assert found.shape == NORMS.shape
    assert np.isfinite(found).all()
    assert found.tobytes() == word(NORMS).tobytes()
    assert NORMS.tobytes() == before.tobytes()


@every_coefficient
def test_coefficients_follow_their_experts(word):
    """Law 1: they are permuted as the norms are."""
    order = [2, 0, 3, 1]
    assert word(NORMS[order]) == pytest.approx(word(NORMS)[order], rel=1e-15)


@every_coefficient
def test_equal_norms_give_equal_coefficients(word):
    """Law 1."""
    found = word(np.full(5, 3.7))
    assert found == pytest.approx(np.full(5, found[0]), rel=1e-15)


@every_coefficient
def test_experts_that_all_equal_the_base_get_coefficients(word):
    found = word(np.zeros(4))
    assert found == pytest.approx(np.full(4, found[0]), rel=1e-15)


@every_coefficient
def test_one_expert_alone_gets_one_coefficient(word):
    assert word(np.array([3.0])).tolist() in ([1.0], [0.3])


@every_control
def test_controls_keep_the_mean_and_the_given_row(word):
    row = np.array([0.1, 0.2, 0.7])
    (before,) = frozen(row)
    assert word(row).mean() == pytest.approx(row.mean(), rel=1e-15)
    assert row.tobytes() == before.tobytes()
    assert word(np.array([0.4])).tolist() == [0.4]
