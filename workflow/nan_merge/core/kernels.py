"""Numba kernels: element-wise inner loops over tiles that fit the cache.

Each kernel equals an expression of NumPy and gives the same bytes (tests/unit/engine/test_kernels.py). Kernels release
the GIL, so threads run in parallel. bfloat16 is passed as its bits, uint16. Kernels marked "finite" return whether all
numbers are finite.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pickle import PickleError
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

CACHE_TILE = 2048  # elements of each model that are merged within the cache
LANES = 256  # partial sums of `squares`; a constant, so sums do not depend on the SIMD width of the processor
RUN = 32  # magnitudes of which `count` looks at the smallest first
GAMMA, MIX_1, MIX_2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
INFINITE_16, INFINITE_32 = np.uint16(0x7F80), np.uint32(0x7F800000)
MODELS = 17  # a base and experts that one kernel takes: the time to compile it grows with their number


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function at its first call, and keep the result on disk where there is a folder for it with room.

    Without one (a read-only installation, no HOME), it is compiled in every process.
    """
    settings: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        compiled = njit(cache=True, **settings)(function)
    except RuntimeError:  # no folder for a cache
        return njit(**settings)(function)
    for step in ("load_overload", "save_overload"):
        setattr(compiled._cache, step, _forgiving(getattr(compiled._cache, step)))
    return compiled


def _forgiving(step: Callable[..., Any]) -> Callable[..., Any]:
    """Return a step of the cache that does nothing where the disk refuses or the file is damaged."""

    def attempt(*arguments: Any) -> Any:
        with suppress(OSError, EOFError, ValueError, PickleError):
            return step(*arguments)

    return attempt


def number(stored: Any) -> Any:
    """Return a stored number as a float: bfloat16 bits are decoded, floats returned as they are (in kernels only)."""
    raise NotImplementedError


@overload(number)
def _(stored: Any) -> Any:
    def decode(stored: Any) -> Any:
        return np.uint32(np.uint32(stored) << np.uint32(16)).view(np.float32)

    def itself(stored: Any) -> Any:
        return stored

    return decode if isinstance(stored, types.Integer) else itself


@kernel
def widen_bfloat16(stored: Any, out: Any) -> Any:
    """Widen bfloat16 (n,) into float32 `out` (n,); finite."""
    bits, top = out.view(np.uint32), np.uint16(0)
    for i in range(stored.size):
        bits[i] = np.uint32(stored[i]) << np.uint32(16)
        top = max(top, stored[i] & np.uint16(0x7FFF))
    return top < INFINITE_16


@kernel
def widen_float32(stored: Any, out: Any) -> Any:
    """Widen float32 (n,) into float64 `out` (n,); finite."""
    bits, top = stored.view(np.uint32), np.uint32(0)
    for i in range(stored.size):
        out[i] = stored[i]
        top = max(top, bits[i] & np.uint32(0x7FFFFFFF))
    return top < INFINITE_32


@kernel
def subtract_bfloat16(stored: Any, theta: Any, out: Any) -> Any:
    """Write bfloat16 `stored` - theta (n,) into float32 `out` (n,); finite (of `stored`)."""
    finite = widen_bfloat16(stored, out)
    for i in range(out.size):
        out[i] -= theta[i]
    return finite


@kernel
def subtract_float32(stored: Any, theta: Any, out: Any) -> Any:
    """Write float32 `stored` - theta (n,) into float64 `out` (n,); finite (of `stored`)."""
    finite = widen_float32(stored, out)
    for i in range(out.size):
        out[i] -= theta[i]
    return finite


@kernel
def add_to_float32(theta: Any, tau: Any, out: Any) -> Any:
    """Round theta + tau, float64 (n,), into float32 `out` (n,); finite."""
    bits, top = out.view(np.uint32), np.uint32(0)
    for i in range(out.size):
        out[i] = theta[i] + tau[i]
    for i in range(out.size):
        top = max(top, bits[i] & np.uint32(0x7FFFFFFF))
    return top < INFINITE_32


@kernel
def add_to_bfloat16(theta: Any, tau: Any, out: Any) -> Any:
    """Round theta + tau, float32 (n,), to nearest even into bfloat16 `out` (n,); finite."""
    total, top = np.empty(512, np.float32), np.uint16(0)
    bits = total.view(np.uint32)
    for start in range(0, theta.size, 512):
        left, right, into = theta[start : start + 512], tau[start : start + 512], out[start : start + 512]
        for i in range(left.size):
            total[i] = left[i] + right[i]
        for i in range(left.size):
            odd = (bits[i] >> np.uint32(16)) & np.uint32(1)
            rounded = np.uint16((bits[i] + (np.uint32(0x7FFF) + odd)) >> np.uint32(16))
            into[i] = rounded
            top = max(top, rounded & np.uint16(0x7FFF))
    return top < INFINITE_16


def add(theta: Any, tau: Any, out: Any) -> Any:
    """Round theta + tau (n,) into `out` (n,) by the kernel for its type; finite (in kernels only)."""
    raise NotImplementedError


@overload(add)
def _(theta: Any, tau: Any, out: Any) -> Any:
    to = add_to_bfloat16 if isinstance(out.dtype, types.Integer) else add_to_float32

    def add(theta: Any, tau: Any, out: Any) -> Any:
        return to(theta, tau, out)

    return add


@kernel
def linear(models: Any, alpha: Any, out: Any) -> Any:
    """Write theta_0 + sum_t c_t tau_t of `models` (tuple of (n,), base first, one type) into `out` (n,); finite.

    alpha (T,) has the compute type: float32 for bfloat16, float64 for float32.
    """
    theta, total, finite = np.empty(CACHE_TILE, alpha.dtype), np.empty(CACHE_TILE, alpha.dtype), True
    for start in range(0, out.size, CACHE_TILE):
        base, into = models[0][start : start + CACHE_TILE], out[start : start + CACHE_TILE]
        for i in range(into.size):
            theta[i] = number(base[i])
            total[i] = -0.0  # the identity of addition, also for -0.0
        for t in range(alpha.size):
            stored, c = models[t + 1][start : start + CACHE_TILE], alpha[t]
            for i in range(into.size):
                total[i] += c * (number(stored[i]) - theta[i])
        finite &= add(theta[: into.size], total[: into.size], into)
    return finite


@kernel
def squares(models: Any, tile: Any, sums: Any) -> None:
    """Write sums of squares of weights and of weights - base, for every `tile` elements, into `sums` (T, tiles, 2).

    `models` is a tuple of arrays (n,) of one type, the base first. Sums are float64: each of LANES partial sums adds every
    LANES-th element in order.
    """
    theta, partial = np.empty(4 * LANES), np.empty((sums.shape[0], 2, LANES))
    for which in range(sums.shape[1]):
        first, stop = which * tile, min((which + 1) * tile, models[0].size)
        partial[:] = 0.0
        for start in range(first, stop, 4 * LANES):  # four at once: fewer loads and stores of partial sums
            base = models[0][start : min(start + 4 * LANES, stop)]
            for i in range(base.size):
                theta[i] = number(base[i])
            for t in range(sums.shape[0]):
                stored, of_weights, of_task_vector = models[t + 1][start:stop], partial[t, 0], partial[t, 1]
                if base.size == 4 * LANES:
                    for i in range(LANES):
                        j, k, m = i + LANES, i + 2 * LANES, i + 3 * LANES
                        w, x = np.float64(number(stored[i])), np.float64(number(stored[j]))
                        y, z = np.float64(number(stored[k])), np.float64(number(stored[m]))
                        of_weights[i] = of_weights[i] + w * w + x * x + y * y + z * z
                        w, x, y, z = w - theta[i], x - theta[j], y - theta[k], z - theta[m]
                        of_task_vector[i] = of_task_vector[i] + w * w + x * x + y * y + z * z
                else:
                    for i in range(base.size):
                        w = np.float64(number(stored[i]))
                        of_weights[i % LANES] += w * w
                        of_task_vector[i % LANES] += (w - theta[i]) * (w - theta[i])
        for t in range(sums.shape[0]):
            sums[t, which] = 0.0
            for i in range(LANES):
                sums[t, which, 0] += partial[t, 0, i]
                sums[t, which, 1] += partial[t, 1, i]


@kernel
def count(base: Any, stored: Any, theta: Any, tau: Any, interval: Any, shift: Any, counts: Any) -> Any:
    """Count the magnitudes of stored - base (n,) in an interval of their bits, `interval` (lowest, width).

    Bits of float32 magnitudes are uint32, those of float64 uint64, and so are `interval` and `shift`. A magnitude in the interval
    adds one to counts[(bits - lowest) >> shift]. `theta` and `tau` (CACHE_TILE,) are scratch space in the type of computation and
    in that of the magnitudes. Returns how many magnitudes are below the interval, and the largest bits.
    """
    bits, low, width, below, inside, top = tau.view(interval.dtype), interval[0], interval[1], 0, 0, interval[0]
    for start in range(0, base.size, CACHE_TILE):
        origin, moved = base[start : start + CACHE_TILE], stored[start : start + CACHE_TILE]
        for i in range(origin.size):
            theta[i] = number(origin[i])
        for i in range(origin.size):
            tau[i] = abs(number(moved[i]) - theta[i])
        for i in range(origin.size):
            top = max(top, bits[i])
            below += bits[i] < low
            bits[i] -= low
            inside += bits[i] < width
        for first in range(0, origin.size if width > 1 else 0, RUN):
            some = bits[first : min(first + RUN, origin.size)]
            least = some[0]
            for i in range(some.size):
                least = min(least, some[i])
            if least < width:  # mostly none of them is in the interval
                for i in range(some.size):
                    if some[i] < width:
                        counts[some[i] >> shift] += 1
    if width == 1:  # many magnitudes of models in 16 bits are equal
        counts[0] += inside
    return below, top


@kernel
def trim(tau: Any, threshold: Any) -> None:
    """Set entries with a magnitude below the threshold to zero, in place."""
    one, zero = tau.dtype.type(1), tau.dtype.type(0)
    for i in range(tau.size):
        tau[i] *= one if abs(tau[i]) >= threshold else zero


@kernel
def drop(tau: Any, first: Any, key: Any, limit: Any, scale: Any) -> None:
    """Set entry i to zero if random draw `first + i` of stream `key` is below `limit`, divide the others by `scale`, in place."""
    one, zero = tau.dtype.type(1), tau.dtype.type(0)
    for i in range(tau.size):
        z = (first + np.uint64(i)) * GAMMA + key
        z = (z ^ (z >> np.uint64(30))) * MIX_1
        z = (z ^ (z >> np.uint64(27))) * MIX_2
        z = (z ^ (z >> np.uint64(31))) >> np.uint64(40)
        tau[i] = tau[i] * (one if z >= limit else zero) / scale


@kernel
def weighted_sum(taus: Any, alpha: Any) -> None:
    """Write sum_t c_t tau_t of taus (T, n) and alpha (T,) into taus[0]."""
    total = taus[0]
    for i in range(total.size):
        total[i] *= alpha[0]
    for t in range(1, taus.shape[0]):
        row, c = taus[t], alpha[t]
        for i in range(row.size):
            total[i] += c * row[i]


@kernel
def disjoint(taus: Any, alpha: Any, election: Any, weights: Any, mean: Any) -> None:
    """Write into taus[0] the sum, or the `mean` by `weights` (T,), of the entries c_t tau_t with the elected sign.

    The elected sign is the sign of the sum with coefficients `election` (T,); a sum of zero elects plus.
    """
    block, one, zero = 512, taus.dtype.type(1), taus.dtype.type(0)
    elected, total, divisor = np.empty(block, taus.dtype), np.empty(block, taus.dtype), np.empty(block, taus.dtype)
    for start in range(0, taus.shape[1], block):
        for t in range(taus.shape[0]):
            row, c = taus[t, start : start + block], election[t]
            for i in range(row.size):
                elected[i] = c * row[i] + (elected[i] if t > 0 else zero)
        for t in range(taus.shape[0]):
            row, c, share = taus[t, start : start + block], alpha[t], weights[t]
            for i in range(row.size):
                w = c * row[i]
                plus = elected[i] >= 0
                agrees = one if (w > 0 and plus) or (w < 0 and not plus) else zero
                total[i] = w * agrees + (total[i] if t > 0 else -zero)
                divisor[i] = share * agrees + (divisor[i] if t > 0 else zero)
        row = taus[0, start : start + block]
        for i in range(row.size):
            row[i] = total[i] / (divisor[i] if divisor[i] != 0 else one) if mean else total[i]


@kernel
def product(left: Any, right: Any, out: Any) -> None:
    """Write left (rows, r) @ right (r, columns) into `out` (rows, columns); every element is summed over r in order."""
    block = 1024
    for start in range(0, out.shape[1], block):
        for i in range(out.shape[0]):
            total = out[i, start : start + block]
            for j in range(total.size):
                total[j] = 0.0
            for k in range(right.shape[0]):
                row, c = right[k, start : start + block], left[i, k]
                for j in range(row.size):
                    total[j] += c * row[j]
