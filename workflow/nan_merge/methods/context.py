"""The context passed to operators, decorators that declare what an operator needs, and random draws."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Ge, Lt
from array_api_compat import array_namespace

from nan_merge.methods.varying import value_at

DRAWS = 1 << 24  # number of different values of a random draw
NEGLIGIBLE = 1e-10  # share of a norm below which a number is rounding in float64
ROUNDINGS = 4  # units of its type by which a decomposition of given numbers may be off
COMPUTED = 64  # times as many: of numbers that were made of decompositions and long sums
_GAMMA, _MIX_1, _MIX_2 = (x - (1 << 64) for x in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
Array = Any  # a NumPy array or a torch tensor
Draw = Annotated[int, Ge(0), Lt(1000), "number of the draw; the seed of the run counts too"]


@dataclass(frozen=True)
class TensorContext:
    """Context passed to an operator: its only input besides arrays, coefficients and hyper-parameters."""

    tensor: str  # its name
    start: int = 0  # flat index in the tensor of the first element of the arrays
    expert: str = ""  # its name; empty in `combine` and `postprocess`
    seed: int = 0  # of random draws
    threshold: float = 0.0  # magnitude at which `trim` cuts the tensor of this expert
    base: Array = None  # values of the base, for operators on whole tensors
    calibration: Sequence[Array] = ()  # statistics of every expert for this tensor; () if there are none
    blocks: Mapping[str, int] = field(default_factory=dict)  # `varying.block_counts` of the model
    depth: float | None = None  # from 0 in the first block of the network to 1 in the last; None outside the blocks
    transposed: bool = False  # whether a matrix is stored as (in, out), as in GPT-2, not as (out, in)
    task: int | None = None  # index of the target task; per-task methods only
    index: int = 0  # of the expert among all, in the order of `calibration`; `preprocess` only

    def key(self, draw: int = 0) -> int:
        """Return the random stream of (seed, expert, tensor) and the number of a draw, a signed 64-bit number."""
        return _key(self.seed, self.expert, self.tensor, *([draw] if draw else []))

    def number(self, value: Any) -> float:
        """Return the number that a hyper-parameter marked `Varies` has at this tensor, for this expert."""
        found = value_at(value, self.tensor, self.blocks)
        return float(found[self.expert] if isinstance(found, Mapping) else found)

    def draws(self, like: Array, draw: int = 0) -> Array:
        """Draw one number from 0 to 2^24 - 1 for every element of `like`: int64 of its shape, on its device.

        Draw i is the upper 24 bits of output number `start` + i of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014)
        seeded by `key`, so it depends only on seed, draw, expert, tensor and element.
        """
        ones = (abs(like) >= 0).reshape(-1)  # a count in operations that NumPy and torch share
        z = (ones.cumsum(0) + (self.start - 1)) * _GAMMA + self.key(draw)
        z = (z ^ _shift(z, 30)) * _MIX_1
        z = (z ^ _shift(z, 27)) * _MIX_2
        return _shift(z ^ _shift(z, 31), 40).reshape(like.shape)


@functools.lru_cache(maxsize=4096)
def _key(*parts: object) -> int:
    text = "\0".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def _shift(z: Array, bits: int) -> Array:
    """Shift int64 to the right as unsigned."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def whole(operator: Callable[..., Any]) -> Callable[..., Any]:
    """Declare that an operator takes whole tensors in their shape, in float64 or float32; the others take flat pieces."""
    operator.whole = True  # type: ignore[attr-defined]
    return operator


def requires(kind: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare what must be measured before an operator runs; the result reaches it in its context.

    `thresholds` are measured from task vectors with the operator's own hyper-parameters; `fisher`, `gram` and `matching` are
    calibration statistics, collected from data with the settings of config/calibration.yaml.
    """

    def mark(operator: Callable[..., Any]) -> Callable[..., Any]:
        operator.requires = kind  # type: ignore[attr-defined]
        return operator

    return mark


def of_weights(operator: Callable[..., Any]) -> Callable[..., Any]:
    """Declare that an operator takes the weights of the base (`context.base`), which no other space than `full` has."""
    operator.of_weights = True  # type: ignore[attr-defined]
    return operator


def scale_free(operator: Callable[..., Any]) -> Callable[..., Any]:
    """Declare that an operator does not see a common factor of all coefficients, in matrices for one that is of matrices."""
    operator.scale_free = True  # type: ignore[attr-defined]
    return operator


def checked(check: Callable[..., object]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare what an operator refuses before it gets data: `check(shape, context, **hyper_parameters)` raises the UserError."""

    def mark(operator: Callable[..., Any]) -> Callable[..., Any]:
        operator.check = check  # type: ignore[attr-defined]
        return operator

    return mark


def excludes(check: Callable[..., str]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare which hyper-parameters exclude each other: `check(**hyper_parameters)` returns the reason, empty if none do."""

    def mark(operator: Callable[..., Any]) -> Callable[..., Any]:
        operator.excludes = check  # type: ignore[attr-defined]
        return operator

    return mark


def length(array: Array) -> float:
    """Return the Frobenius norm."""
    return float((array * array).sum()) ** 0.5


def unit(array: Array) -> float:
    """Return the distance from 1 to the next number in the type of an array: 2^-52 in float64, 2^-23 in float32."""
    return float(namespace(array).finfo(array.dtype).eps)


def negligible(array: Array, share: float = NEGLIGIBLE, times: float = 1) -> float:
    """Return the share of a norm below which a number is rounding: `share` in float64, more in a type that rounds above it."""
    return max(share, times * ROUNDINGS * unit(array))


def namespace(array: Array) -> Any:
    """Return the array API namespace of an array: of NumPy or of torch."""
    return array_namespace(array)
