"""What the words that take matrices apart share: which tensors they take, and one way to solve and decompose. No torch.

All are computed in float64, tensor by tensor. A tensor that is no matrix gets the mean of the weighted task vectors.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge

from nan_merge.core.errors import UserError
from nan_merge.methods.context import Array, TensorContext, namespace, whole

LARGEST = 16384  # the most inputs of a matrix that is taken apart: its Gram matrix has 2 GiB

Combine = Callable[..., Array]
Exclude = Annotated[str, "regular expression of the names of matrices that are not taken apart"]
Largest = Annotated[int, Ge(1), "the most inputs that a matrix has that is taken apart"]


def mean(taus: Sequence[Array], alpha: Sequence[float]) -> Array:
    """Return sum_t c_t tau_t / T: what a tensor gets that is no matrix."""
    total = alpha[0] * taus[0]
    for c, tau in zip(alpha[1:], taus[1:], strict=True):
        total = total + c * tau
    return total / len(taus)


def of_matrices(operator: Combine) -> Combine:
    """Turn a word of `combine` for matrices (T, rows, columns) into one for every tensor.

    Matrices arrive as (out, in) however they are stored; a convolution over single pixels is a matrix too. Other
    tensors, and those whose name `exclude` matches, get the mean. The word gains the hyper-parameters `exclude` and
    `largest`.
    """

    def combine(
        taus: Array, alpha: Sequence[float], context: TensorContext, *, exclude: str = "", largest: int = LARGEST, **given: Any
    ) -> Array:
        shape = tuple(taus[0].shape)
        if not taken_apart(shape, context, exclude, largest):
            return mean(taus, alpha)
        matrices = namespace(taus[0]).stack([tau.reshape(shape[:2]) for tau in taus])
        if context.transposed:
            return operator(matrices.mT, alpha, context, **given).T
        return operator(matrices, alpha, context, **given).reshape(shape)

    return _announced(combine, operator)


def taken_apart(shape: tuple[int, ...], context: TensorContext, exclude: str, largest: int) -> bool:
    """Say whether a tensor is a matrix that nobody excluded; one with more inputs than `largest` is a UserError."""
    if len(shape) < 2 or any(size != 1 for size in shape[2:]) or (exclude and re.search(exclude, context.tensor)):
        return False
    inputs = shape[0] if context.transposed else shape[1]
    if inputs > largest:
        raise UserError(
            f"tensor '{context.tensor}' is {list(shape)}, with {inputs} inputs; this method takes matrices apart that have at most"
            f" {largest}. Leave it out with `merge: exclude:`, average it with `exclude: <regex>`, or set `largest: {inputs}` if"
            " the memory is there (8 bytes times the square of the inputs, several times)"
        )
    return True


def _announced(combine: Combine, operator: Combine) -> Combine:
    """Give `combine` the name and description of `word`, and the hyper-parameters of both."""
    functools.update_wrapper(combine, operator)
    extra = {"exclude": Exclude, "largest": Largest}
    defaults = {"exclude": "", "largest": LARGEST}
    signature = inspect.signature(operator)
    added = [inspect.Parameter(k, inspect.Parameter.KEYWORD_ONLY, default=defaults[k]) for k in extra]
    combine.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *added])  # type: ignore[attr-defined]
    combine.__annotations__ = {**operator.__annotations__, **extra}
    return whole(combine)


def svd(matrix: Array) -> tuple[Array, Array, Array]:
    """Return U, S, V^T of the economical singular value decomposition: (m, n) -> (m, r), (r,), (r, n), r = min(m, n)."""
    return namespace(matrix).linalg.svd(matrix, full_matrices=False)


def solve_right(numerator: Array, denominator: Array) -> Array:
    """Return numerator times the inverse of the square `denominator`, by LU; by its pseudo-inverse where it is singular.

    (m, n), (n, n) -> (m, n). LU counts as failed where it raises, or where what it returns is not finite.
    """
    xp = namespace(numerator)
    try:
        found = xp.linalg.solve(denominator.T, numerator.T).T
        if bool(xp.all(xp.isfinite(found))):
            return found
    except (np.linalg.LinAlgError, RuntimeError):  # NumPy's error and torch's
        pass
    return numerator @ xp.linalg.pinv(denominator)
