"""`preprocess` operators for flat pieces of one task vector: (n,) -> (n,).

Written in operations that NumPy and torch share. Hyper-parameters are keyword-only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

from nan_merge.methods.context import DRAWS, Array, Draw, TensorContext, excludes, namespace, requires
from nan_merge.methods.varying import Varies, varies


def identity(tau: Array, context: TensorContext) -> Array:
    """Return the task vector as it is."""
    return tau


def unshared(density: Any, scope: str) -> str:
    """Return why no share of the whole model can be kept: a density of `trim` that varies over its tensors; else empty."""
    if scope == "model" and any(map(varies, density.values() if isinstance(density, Mapping) else [density])):
        return "preprocess: trim: a density that varies over tensors has no share of the model; set `scope: tensor`"
    return ""


@excludes(unshared)
@requires("thresholds")
def trim(
    tau: Array,
    context: TensorContext,
    *,
    density: Annotated[float, Gt(0), Le(1), "share of entries kept", Varies(by_expert=True)] = 0.2,
    scope: Annotated[Literal["model", "tensor"], "range over which the share is kept"] = "model",
) -> Array:
    """Keep the entries of largest magnitude, `density` of the whole model (TIES, arXiv 2306.01708, step 1).

    The threshold is the (d - floor(density d))-th smallest magnitude over all merged tensors of the expert, or with
    `scope: tensor` the smallest of the floor(density d) largest of each tensor; entries at the threshold are kept. It
    is measured beforehand (`measure.thresholds`) and passed as `context.threshold`.
    """
    return tau * (abs(tau) >= context.threshold)


def drop(
    tau: Array,
    context: TensorContext,
    *,
    rate: Annotated[float, Ge(0), Lt(1), "share of entries dropped", Varies(by_expert=True)] = 0.9,
    seed: Draw = 0,
) -> Array:
    """Drop entries at random and rescale the rest by 1 / (1 - rate) (DARE, arXiv 2311.03099, eq. 3).

    DIFFERS: mergekit rescales the rest to the sum of magnitudes of all.
    """
    rate = context.number(rate)
    keep = context.draws(tau, seed) >= math.ceil(rate * DRAWS)
    return tau * keep / (1 - rate)


def clip(
    tau: Array,
    context: TensorContext,
    *,
    limit: Annotated[float, Ge(0), "largest magnitude of an entry", Varies(by_expert=True)] = 1e-4,
) -> Array:
    """Limit every entry to [-limit, limit] (NearSwap of mergekit, where the limit is t).

    NearSwap interpolates with the weight min(1, t / |tau|), which takes small changes whole and t of larger ones. The default is
    that of the model for which it was made, QuartetAnemoi-70B-t0.0001.
    DIFFERS: mergekit takes |tau| for at least 1e-6, which matters for a smaller t.
    """
    limit = context.number(limit)
    return namespace(tau).clip(tau, -limit, limit)


PREPROCESS = {f.__name__: f for f in (identity, trim, drop, clip)}
