"""Laws that follow from the algebra of the methods, numbered; a test says in its docstring which law it is.

 1  NAN's shares sum to one, are positive, follow their experts, are equal for equal norms, and do not see a common scale
 2  averages of one expert are that expert
 3  averages of identical experts are that expert; task arithmetic goes lambda T times as far
 4  NAN on task vectors makes them all equally long
 5  NAN with exponent 0 is task arithmetic; NAN on weights is an average up to |tau| / |theta|
 6  a longer task vector turns task arithmetic, but not NAN
 7  TIES of one expert at full density is that expert; its weighted mean does not see a common scale
 8  trimming before weighting is trimming after it
 9  ACE of one expert, without the prior, is the centred task vector, at any ridge
10  ACE without a ridge reproduces experts on row spaces at right angles
11  ACE of what did not move is zero; it never explodes; its normalisation is a choice of Gram weights
12  the exact minimum of WUDI is ACTMat over traces
13  Iso-C has a flat spectrum, the mean of the sum's; TSV-M keeps the singular values that it was given
14  TSV-M of one expert is that expert
15  tensors that are no matrices get the average
16  DARE is unbiased, and so is DELLA
17  RegMean of isotropic inputs is the mean by numbers of examples
18  the distance of an expert from the truth falls with its examples; the norm of its weights does not
"""

import re
from functools import partial

import numpy as np
import pytest
from cases import case, close, draw
from models import ROOT, family, flat, merged, tensors_of

from nan_merge.methods.combine import disjoint_mean, disjoint_sum, fisher, overlap_mean, weighted_sum
from nan_merge.methods.context import TensorContext
from nan_merge.methods.covariance import actmat, gram
from nan_merge.methods.geometry import karcher, model_stock, slerp, widen
from nan_merge.methods.importance import ram_plus, sce
from nan_merge.methods.interference import optmerge, swudi, wudi
from nan_merge.methods.orthogonal import orthomerge
from nan_merge.methods.preprocess import trim
from nan_merge.methods.spectral import cart, tsv

ALONE = [weighted_sum, disjoint_sum, disjoint_mean, fisher, karcher, model_stock, gram, actmat, wudi, widen, cart, tsv]
ALONE += [partial(actmat, normalise="trace"), overlap_mean, ram_plus, sce, swudi, optmerge, orthomerge]
BY_COEFFICIENTS = partial(disjoint_mean, divide_by="coefficients")
ALIKE = [weighted_sum, disjoint_sum, BY_COEFFICIENTS, fisher, karcher, model_stock, slerp, gram, actmat]
ALIKE += [partial(actmat, normalise="trace"), sce]
SHAPES = pytest.mark.parametrize("shape", [(6, 9), (9, 6), (1, 7), (7, 1), (1, 1), (5,), (), (4, 3, 2, 2)], ids=str)


def names(operators):
    return [getattr(operator, "func", operator).__name__ for operator in operators]


def test_every_law_has_a_test():
    found = {int(n) for file in (ROOT / "tests").rglob("test_*.py") for n in re.findall(r'"""Laws? (\d+)', file.read_text())}
    assert found == {int(number) for number in re.findall(r"^ ?(\d+)  ", __doc__, re.MULTILINE)} == set(range(1, 19))


@SHAPES
@pytest.mark.parametrize("operator", ALONE, ids=names(ALONE))
def test_averages_of_one_expert_are_that_expert(operator, shape):
    """Law 2."""
    taus, _, at = case(partial(operator), shape)
    close(operator(taus[:1], [1.0], TensorContext("w", base=at.base, calibration=at.calibration[:1])), taus[0])


@SHAPES
def test_slerp_all_the_way_is_the_second_expert(shape):
    """Law 2."""
    taus, _, at = case(partial(slerp), shape)
    close(slerp(taus, [0.0, 1.0], at), taus[1])
    close(slerp(taus, [1.0, 0.0], at), taus[0])


@SHAPES
@pytest.mark.parametrize("operator", ALIKE, ids=names(ALIKE))
def test_averages_of_identical_experts_are_that_expert_whatever_the_shares(operator, shape):
    """Law 3: the shares sum to one; operators on matrices average other tensors, so there they sum to three."""
    taus, alpha, at = case(partial(operator), shape)
    scale = 3 if getattr(operator, "func", operator) in (gram, actmat) else 1
    shares = [scale * c / sum(alpha) for c in alpha]
    close(operator(np.stack([taus[0]] * len(taus)), shares, at), taus[0], rel=1e-9)


def test_task_arithmetic_of_identical_experts_goes_lambda_t_times_as_far():
    """Law 3."""
    tau = draw(50)
    close(weighted_sum([tau] * 4, [0.3] * 4, TensorContext("w")), 1.2 * tau)


def test_nan_on_weights_is_an_average_up_to_the_relative_length_of_task_vectors(tmp_path):
    """Law 5."""
    base, experts = family(tmp_path, experts=3, dtype=np.dtype(np.float64))
    theta = flat(tensors_of(base))
    taus = [flat(tensors_of(folder)) - theta for folder in experts.values()]
    average = merged(tmp_path / "average", {}, base, experts)
    literal = merged(tmp_path / "nan", {"coefficients": {"nan": {"norm_of": "weights"}}}, base, experts)
    longest = max(np.linalg.norm(tau) for tau in taus)
    apart = np.linalg.norm(flat(literal) - flat(average))
    assert 0 < apart <= 2 * longest**2 / np.linalg.norm(theta)


@pytest.mark.parametrize("elect", ["weighted", "unweighted"])
def test_trimming_before_weighting_is_trimming_after_it(elect):
    """Law 8: the cut of an expert moves with its coefficient; weighted before, signs are elected by weight."""
    taus, alpha = draw(3, 500), [0.5, 2.0, 0.25]
    cuts = np.sort(abs(taus), axis=1)[:, 400]
    after = [trim(tau, TensorContext("w", threshold=cut)) for tau, cut in zip(taus, cuts, strict=True)]
    before = [trim(c * tau, TensorContext("w", threshold=c * cut)) for c, tau, cut in zip(alpha, taus, cuts, strict=True)]
    found = disjoint_sum(after, alpha, TensorContext("w"), elect=elect)
    if elect == "weighted":
        assert np.array_equal(disjoint_sum(before, [1.0] * 3, TensorContext("w")), found)
    else:
        assert not np.array_equal(disjoint_sum(before, [1.0] * 3, TensorContext("w")), found)


def test_the_distance_from_the_truth_tracks_examples_and_the_norm_of_weights_does_not():
    """Law 18, NAN's premise: of least squares on n examples, E |W - W*|^2 = out in sigma^2 / (n - in - 1).

    |W|^2 is that plus |W*|^2, which does not depend on n. So 1 / |W - W*|^2 is about n, and 1 / |W|^2 is flat.
    """
    rng, sizes = np.random.default_rng(0), np.array([100, 400, 1600, 6400])
    truth = rng.standard_normal((20, 10))
    apart, norms = np.zeros(4), np.zeros(4)
    for i, n in enumerate(sizes):
        for _ in range(5):
            x = rng.standard_normal((n, 10))
            y = x @ truth.T + rng.standard_normal((n, 20))
            w = np.linalg.lstsq(x, y, rcond=None)[0].T
            apart[i] += ((w - truth) ** 2).sum() / 5
            norms[i] += (w**2).sum() / 5
    assert apart * (sizes - 11) == pytest.approx([200] * 4, rel=0.15)
    assert norms == pytest.approx([(truth**2).sum()] * 4, rel=0.05)
    shares, known = (1 / norms) / (1 / norms).sum(), (1 / apart) / (1 / apart).sum()
    assert shares == pytest.approx([0.25] * 4, abs=0.01)
    assert known == pytest.approx((sizes - 11) / (sizes - 11).sum(), rel=0.15)
