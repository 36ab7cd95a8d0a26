"""Every kernel gives the bytes of the line of NumPy, or of the operator, that it replaces."""

import ml_dtypes
import numpy as np
import pytest

from nan_merge.checkpoints.safetensors_file import NAMES
from nan_merge.core import kernels
from nan_merge.core.blocks import compute_type
from nan_merge.engine import fused, reader
from nan_merge.methods.combine import COMBINE
from nan_merge.methods.context import TensorContext
from nan_merge.methods.preprocess import PREPROCESS

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
SIZES = [0, 1, 127, 128, 513, 5000]
every_size = pytest.mark.parametrize("size", SIZES)


def awkward(size, seed=0):
    """Draw float32 of all magnitudes, with zeros of both signs, denormals, ties and large numbers among them."""
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal(size) * 10.0 ** rng.integers(-20, 20, size)).astype(np.float32)
    values[rng.random(size) < 0.1] = 0.0
    values[rng.random(size) < 0.1] = -0.0
    values[rng.random(size) < 0.1] = 1e-42
    return np.where(rng.random(size) < 0.2, np.float32(0.5) * rng.choice([-1, 1], size), values).astype(np.float32)


def half(size, seed=0):
    return awkward(size, seed).astype(BFLOAT16)


@every_size
@pytest.mark.parametrize("dtype", [BFLOAT16, np.float32, np.float16, np.float64, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2])
@pytest.mark.parametrize("computed", [np.float32, np.float64])
def test_widening_and_subtracting_are_numpy_s(dtype, computed, size):
    small = np.clip(awkward(size), -400, 400).astype(dtype)
    theta = awkward(size, 1).astype(computed)
    wide, tau = np.empty((2, size), computed)
    assert reader.widen(small, wide)
    assert reader.subtract(small, theta, tau)
    assert wide.tobytes() == small.astype(computed).tobytes()
    assert tau.tobytes() == (small.astype(computed) - theta).tobytes()


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [BFLOAT16, np.float32, np.float16, np.float64])
def test_what_is_not_finite_is_seen(dtype, value):
    for place in (0, 77, 299):
        stored = np.ones(300, dtype)
        stored[place] = value
        out, theta = np.empty(300, compute_type(NAMES[np.dtype(dtype)])), np.zeros(300, np.float32)
        assert not reader.widen(stored, out)
        assert not reader.subtract(stored, theta.astype(out.dtype), out)
        assert reader.first_not_finite(stored) == place
        fine = np.ones(300, dtype)
        for models in ((fine, stored), (stored, fine), (fine, fine, stored)):
            assert not np.isfinite(reader.sums_of_squares(models)).all()


@every_size
@pytest.mark.parametrize("dtype", [BFLOAT16, np.float32, np.float16, np.float64])
def test_the_sum_is_rounded_once_to_nearest_even(dtype, size):
    computed = compute_type(NAMES[np.dtype(dtype)])
    theta, tau = (np.clip(awkward(size, seed), -3e4, 3e4).astype(computed) for seed in (0, 1))
    out = np.empty(size, dtype)
    assert reader.add(theta, tau, out)
    assert out.tobytes() == (theta + tau).astype(dtype).tobytes()


def test_every_half_way_case_of_bfloat16_rounds_to_even():
    bits = np.arange(0x3F800000, 0x3F900000, 0x4000, dtype=np.uint32)
    theta, out = bits.view(np.float32), np.empty(len(bits), BFLOAT16)
    reader.add(theta, np.zeros_like(theta), out)
    assert out.tobytes() == theta.astype(BFLOAT16).tobytes()


def test_a_sum_that_leaves_bfloat16_is_seen():
    theta = np.full(3, 3.3e38, np.float32)
    assert not reader.add(theta, np.float32([0, 0.1e38, 0]), np.empty(3, BFLOAT16))


@every_size
@pytest.mark.parametrize("dtype", [BFLOAT16, np.float32, np.float16, np.float64])
def test_squares_are_summed_in_float64(dtype, size):
    rng = np.random.default_rng(0)
    base, *experts = rng.standard_normal((4, size)).astype(dtype)
    found = reader.sums_of_squares([base, *experts])
    assert found.shape == (3, min(size, 1), 2)
    for t, expert in enumerate(experts):
        wide = expert.astype(np.float64)
        expected = [np.sum(wide**2), np.sum((wide - base.astype(np.float64)) ** 2)]
        assert found[t].sum(axis=0) == pytest.approx(expected, rel=1e-13)


@every_size
def test_squares_are_summed_in_an_order_of_their_own(size):
    """256 partial sums, each in order of index, added up in order: whatever the vectors of the processor."""
    stored, base = awkward(size) / np.float32(1e10), awkward(size, 1) / np.float32(1e10)
    wide, lanes = stored.astype(np.float64), np.zeros((2, kernels.LANES))
    for i in range(size):
        lanes[0, i % kernels.LANES] += wide[i] ** 2
        lanes[1, i % kernels.LANES] += (wide[i] - base[i].astype(np.float64)) ** 2
    assert reader.sums_of_squares([base, stored]).tolist() == [[[sum(lane.tolist()) for lane in lanes]][: min(size, 1)]]


@pytest.mark.parametrize("wide", [np.float32, np.float64])
@pytest.mark.parametrize("dtype", [BFLOAT16, np.float32])
@pytest.mark.parametrize(("lowest", "highest"), [(0, 1), (0.5, 0.5), (0.3, 0.6), (0.9, 1)])
def test_counts_are_histograms_of_the_bits(lowest, highest, dtype, wide):
    """Of all, of one value that many magnitudes have, of a part and of the largest; as a whole and in parts."""
    stored, kind = [np.clip(awkward(5000, seed), -1e18, 1e18).astype(dtype) for seed in range(2)], np.dtype(f"u{wide().itemsize}")
    theta = stored[0].astype(compute_type(NAMES[np.dtype(dtype)]))
    bits = abs(stored[1].astype(theta.dtype) - theta).astype(wide).view(kind)
    low, high = (int(each) for each in np.quantile(bits, [lowest, highest], method="nearest"))
    scratch = np.empty(kernels.CACHE_TILE, theta.dtype), np.empty(kernels.CACHE_TILE, wide)
    base, tuned = [block.view(np.uint16) if dtype == BFLOAT16 else block for block in stored]
    inside = bits[(bits >= low) & (bits <= high)] - kind.type(low)
    assert len(inside)
    for shift in {0, max(0, (high - low).bit_length() - 10)} if high - low < 1 << 20 else {(high - low).bit_length() - 10}:
        counts = np.zeros(((high - low) >> shift) + 1, np.int64)
        found = kernels.count(base, tuned, *scratch, np.array([low, high - low + 1], kind), kind.type(shift), counts)
        assert found == (np.sum(bits < low), bits.max())
        assert counts.tolist() == np.bincount((inside >> kind.type(shift)).astype(np.int64), minlength=len(counts)).tolist()


@pytest.mark.parametrize("size", [*SIZES, 4097])
@pytest.mark.parametrize("dtype", [BFLOAT16, np.float32])
def test_a_linear_merge_in_one_go_gives_the_bytes_of_its_steps(dtype, size):
    stored = [np.clip(awkward(size, seed), -1e18, 1e18).astype(dtype) for seed in range(4)]
    wide = [block.astype(compute_type(NAMES[np.dtype(dtype)])) for block in stored]
    alpha, out = [0.3, -0.2, 0.7], np.empty(size, dtype)
    assert fused.linear(stored, alpha, out)
    tau = COMBINE["weighted_sum"]([w - wide[0] for w in wide[1:]], np.asarray(alpha, wide[0].dtype), TensorContext("w"))
    assert out.tobytes() == (wide[0] + tau).astype(dtype).tobytes()


@pytest.mark.parametrize("dtype", [BFLOAT16, np.float32])
def test_a_linear_merge_in_one_go_leaves_the_rest_to_the_steps(dtype):
    """What is not finite, of more than one type, or of a type without a kernel."""
    fine, out = np.ones(9, dtype), np.empty(9, dtype)
    for value in (np.nan, np.inf, -np.inf):
        bad = np.where(np.arange(9) == 5, dtype(value) if dtype is np.float32 else BFLOAT16.type(value), fine)
        for stored in ([bad, fine], [fine, bad], [fine, bad, -bad], [bad, bad]):
            assert not fused.linear(stored, [0.0, 1.0][: len(stored) - 1], out)
    assert not fused.linear([fine * 3, np.full(9, 3e38, dtype)], [2.0], out)
    assert not fused.linear([fine, fine.astype(np.float16)], [1.0], out)
    assert not fused.linear([fine, fine], [1.0], np.empty(9, np.float64))
    assert not fused.linear([fine.astype(np.float64)] * 2, [1.0], np.empty(9, np.float64))


def settings(operator):
    """Return the settings of an operator that change what it does."""
    return {
        "drop": [{"rate": rate} for rate in (0.0, 0.3, 0.9)],
        "disjoint_sum": [{"elect": "weighted"}, {"elect": "unweighted"}],
        "disjoint_mean": [{"elect": e, "divide_by": d} for e in ("weighted", "unweighted") for d in ("count", "coefficients")],
    }.get(operator.__name__, [{}])


@every_size
@pytest.mark.parametrize("computed", [np.float32, np.float64])
@pytest.mark.parametrize("operator", fused.FUSED_KERNELS, ids=lambda operator: operator.__name__)
def test_a_kernel_gives_the_bytes_of_its_operator(operator, computed, size):
    """Magnitudes stay in a range where nothing overflows; the sign of zero counts too."""
    taus = np.stack([np.clip(awkward(size, seed), -1e18, 1e18) for seed in range(3)]).astype(computed)
    context = TensorContext("w", start=12345, expert="a", seed=1, threshold=0.5)
    for given in settings(operator):
        if operator.__name__ in PREPROCESS:
            expected, found = operator(taus[0], context, **given), fused.FUSED_KERNELS[operator](taus[0].copy(), context, **given)
        else:
            alpha = [0.3, -0.2, 0.7]
            expected, found = (
                operator(list(taus), alpha, context, **given),
                fused.FUSED_KERNELS[operator](taus.copy(), alpha, context, **given),
            )
        assert found.dtype == computed
        assert found.tobytes() == expected.tobytes(), given


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 8, 5), (2, 16, 3000)])
def test_a_product_is_summed_in_order(shape):
    rows, rank, columns = shape
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((rows, rank)), rng.standard_normal((rank, columns))
    expected, found = np.zeros((rows, columns)), np.empty((rows, columns))
    for k in range(rank):
        expected += left[:, k, None] * right[k]
    kernels.product(left, right, found)
    assert found.tobytes() == expected.tobytes()
