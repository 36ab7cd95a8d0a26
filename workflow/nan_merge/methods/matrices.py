"""Helpers of operators that decompose or solve matrices: which tensors they take, and what the others get.

All is computed tensor by tensor. A tensor that is not a matrix gets `others` times the mean of the weighted task
vectors.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from annotated_types import Ge

from nan_merge.core.errors import UserError
from nan_merge.core.patterns import Regex
from nan_merge.methods.context import Array, TensorContext, checked, whole

LARGEST = 16384  # largest number of inputs of a matrix by default: its Gram matrix has 2 GiB

Combine = Callable[..., Array]
Exclude = Annotated[Regex, "regular expression of the names of matrices that are treated as other tensors"]
Others = Annotated[float, Ge(0), "factor of the mean of the other tensors, vectors too; 0 leaves them at the base"]
Largest = Annotated[int, Ge(1), "largest number of inputs of a matrix; a larger one is an error"]


def mean(taus: Sequence[Array], alpha: Sequence[float]) -> Array:
    """Return sum_t c_t tau_t / T, the merge of a tensor that is not a matrix."""
    total = alpha[0] * taus[0]
    for c, tau in zip(alpha[1:], taus[1:], strict=True):
        total = total + c * tau
    return total / len(taus)


def of_matrices(operator: Combine) -> Combine:
    """Extend a `combine` operator for matrices (T, out, in) to all tensors.

    Matrices, and the base of the context, are passed as (out, in) however they are stored. Other tensors, and those whose name
    `exclude` matches, get the mean times `others`. Adds the hyper-parameters `exclude`, `others` and `largest`.
    DIFFERS: a convolution over single pixels is a matrix too; the authors' codes (TSV-M, Iso, ACE, WUDI) take two axes only.
    """

    def combine(
        taus: Array,
        alpha: Sequence[float],
        context: TensorContext,
        *,
        exclude: str = "",
        others: float = 1.0,
        largest: int = LARGEST,
        **values: Any,
    ) -> Array:
        shape = tuple(taus[0].shape)
        if not is_decomposed(shape, context, exclude, largest):
            return others * mean(taus, alpha)

        def turned(array: Array) -> Array:  # no copy: these are the largest part of the memory
            matrix = array.reshape(shape[:2])
            return matrix.T if context.transposed else matrix

        base = None if context.base is None else turned(context.base)
        at = dataclasses.replace(context, base=base, transposed=False)
        merged = operator([turned(tau) for tau in taus], alpha, at, **values)
        return (merged.T if context.transposed else merged).reshape(shape)

    added = {"exclude": (Exclude, ""), "others": (Others, 1.0), "largest": (Largest, LARGEST)}
    return checked(is_decomposed)(whole(with_hyper_parameters(combine, operator, added)))


def is_decomposed(shape: tuple[int, ...], context: TensorContext, exclude: str, largest: int, **_: Any) -> bool:
    """Return whether a tensor is a matrix that is not excluded; one with more inputs than `largest` is a UserError."""
    if len(shape) < 2 or 0 in shape or any(size != 1 for size in shape[2:]) or (exclude and re.search(exclude, context.tensor)):
        return False
    inputs = shape[0] if context.transposed else shape[1]
    if inputs > largest:
        raise UserError(
            f"tensor '{context.tensor}' is {list(shape)}, with {inputs} inputs; expected at most {largest} inputs of a matrix for"
            f" this method. Leave it out with `merge: exclude:`, average it with `exclude: <regex>`, or set `largest: {inputs}`"
            " if there is enough memory (8 bytes times the square of the inputs, several times)"
        )
    return True


def with_hyper_parameters(combine: Combine, operator: Combine, added: Mapping[str, tuple[Any, Any]]) -> Combine:
    """Give `combine` the name and description of `operator`, and its hyper-parameters with those added.

    `added` are (annotation, default) by name.
    """
    functools.update_wrapper(combine, operator)
    signature = inspect.signature(operator)
    extra = [inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default) for key, (_, default) in added.items()]
    combine.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *extra])  # type: ignore[attr-defined]
    combine.__annotations__ = {**operator.__annotations__, **{key: annotation for key, (annotation, _) in added.items()}}
    return combine


def or_one(energy: Array) -> Array:
    """Return a number, or 1 where it is zero."""
    return energy + (energy == 0)
