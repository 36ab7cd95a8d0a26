"""Cases for the laws of operators: each operator with each of its choices, contexts, and task vectors of all sorts."""

import dataclasses
import functools
import inspect

import numpy as np
import pytest

from nan_merge.methods.context import TensorContext
from nan_merge.methods.recipe import STAGES, hyper_parameters
from nan_merge.methods.schema import of_type

ALPHA = [0.5, 0.2, 0.9]
BASE_SEED = 9
SHAPES = [(6, 9), (9, 6), (1, 7), (7, 1), (1, 1), (5,), (1,), (), (4, 3, 2, 2), (5, 4, 1, 1)]


def choices(kind):
    """Return the values of a hyper-parameter that has a few."""
    schema = of_type(kind)
    words = [word for branch in schema.get("anyOf", [schema]) for word in branch.get("enum", [])]
    return [True, False] if schema.get("type") == "boolean" else words


def variants(stage):
    """Return the operators of a stage, and one more for each other choice of a hyper-parameter: {id: operator}."""
    found = {}
    for name, operator in STAGES[stage].items():
        takes = hyper_parameters(operator)
        needed = {key: 0.3 for key, (_, default) in takes.items() if default is inspect.Parameter.empty}
        found[name] = functools.partial(operator, **needed)
        for key, (kind, default) in takes.items():
            others = [choice for choice in choices(kind) if choice != default]
            found |= {f"{name}-{key}-{choice}": functools.partial(operator, **needed, **{key: choice}) for choice in others}
    return found


def every(stage, chosen=lambda operator: True):
    """Parametrise a test over the variants of a stage's operators that are chosen."""
    found = {name: operator for name, operator in variants(stage).items() if chosen(operator)}
    return pytest.mark.parametrize("operator", found.values(), ids=found)


def is_whole(operator):
    """Return whether an operator takes whole tensors; the others take flat pieces in the type of the merge."""
    return getattr(operator.func, "whole", False)


def takes_matrices(operator):
    """Return whether an operator decomposes matrices and leaves other tensors alone."""
    return "exclude" in hyper_parameters(operator.func)


def experts_of(operator):
    return getattr(operator.func, "experts", 3)


def draw(*shape, seed=0, size=1.0):
    return size * np.random.default_rng(seed).standard_normal(shape)


def calibration(kind, shape, count, transposed=False):
    """Return the calibration of a kind: positive numbers, Gram matrices of the inputs of a layer, or groups; [] for no kind."""
    if kind == "matching" and shape:
        return [np.concatenate([np.random.default_rng(10).permutation(size) for size in shape[:2]]) for _ in range(count)]
    if kind == "fisher":
        return [10.0 ** draw(*shape, seed=10 + t) for t in range(count)]
    if kind == "gram" and len(shape) >= 2 and set(shape[2:]) <= {1}:
        inputs = [draw(40, shape[0 if transposed else 1], seed=10 + t) for t in range(count)]
        return [x.T @ x / 40 for x in inputs]
    return []


def context(operator, shape, count=3, transposed=False):
    """Return the context of a layer's weight of this shape, with the calibration that the operator requires."""
    needed = getattr(operator.func, "requires", None) if operator.func in STAGES["combine"].values() else None
    found = calibration(needed, shape, count, transposed)
    base = draw(*shape, seed=BASE_SEED)
    at = {"expert": "a", "seed": 1, "threshold": 0.5, "depth": 0.5, "task": 0, "transposed": transposed}
    return TensorContext("layer.0.weight", base=base, calibration=found, **at)


def case(operator, shape=(6, 9), seed=0):
    """Return task vectors, coefficients and a context for an operator of `combine`."""
    count = experts_of(operator)
    return draw(count, *shape, seed=seed, size=0.3), ALPHA[:count], context(operator, shape, count)


def edges():
    """Return task vectors (T, ...) that are hard for operators, by name; operators get no empty tensors."""
    tau, other, third = draw(3, 20, 20, seed=1)
    low = np.stack([draw(20, 2, seed=t) @ draw(2, 20, seed=5 + t) for t in range(3)])
    return {
        "all zero": np.zeros((3, 20, 20)),
        "one zero": np.stack([0 * tau, other, third]),
        "identical": np.stack([tau] * 3),
        "two identical": np.stack([tau, tau, other]),
        "opposite": np.stack([tau, -tau, 0.5 * tau]),
        "cancelling": np.stack([tau, -0.5 * tau * ALPHA[0] / ALPHA[1], -0.5 * tau * ALPHA[0] / ALPHA[2]]),
        "ties": np.sign(np.stack([tau, other, third])),
        "low rank": low,
        "low rank in one corner": np.pad(low[:, :6, :6], ((0, 0), (0, 14), (0, 14))),
        "tiny": 1e-150 * np.stack([tau, other, third]),
        "huge": 1e100 * np.stack([tau, other, third]),
        "one tiny": np.stack([tau, 1e-30 * other, third]),
        "back to zero": np.stack([-draw(20, 20, seed=BASE_SEED)] * 3),
        "rows alike": np.stack([tau, other, 0 * tau + 0.1]),
        "fewer rows than experts": draw(3, 2, 9),
        **{f"shape {shape}": draw(3, *shape) for shape in SHAPES},
    }


def agreement(operator, edge):
    """Return how well NumPy and torch agree, or None if they need not.

    WUDI, OptMerge, DOGE: at the minimum, Adam divides by a gradient that is rounding. WIDEN: columns that vanish all turn by
    one half, and rounding decides their ranks.
    """
    if (operator.func.__name__, edge) == ("widen", "back to zero"):
        return None
    return 1e-6 if operator.func.__name__ in ("wudi", "optmerge", "doge") else 1e-8


def as_torch(value):
    """Return an array, the arrays of a context, or those of a list, as tensors."""
    import torch

    if isinstance(value, TensorContext):
        return dataclasses.replace(value, base=as_torch(value.base), calibration=[as_torch(each) for each in value.calibration])
    return torch.from_numpy(np.array(value)) if isinstance(value, (np.ndarray, np.floating)) else value


def close(found, expected, rel=1e-10, size=0.0):
    """Assert that arrays agree to `rel` of the largest entry, or of the size of what went in."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    assert abs(found - expected).max(initial=0) <= rel * max(abs(expected).max(initial=0), size)


def frozen(*arrays):
    """Return copies of arrays, which then cannot be written to."""
    copies = [np.copy(array) for array in arrays]
    for array in arrays:
        if isinstance(array, np.ndarray):
            array.flags.writeable = False
    return copies
