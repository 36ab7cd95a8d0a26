"""Match the units of networks that were trained from different random weights: ZipIt! (arXiv 2305.03053) and permutations."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, Le

from nan_merge.calibration.records import batches
from nan_merge.core.errors import UserError
from nan_merge.core.progress import Progress, no_progress
from nan_merge.layouts.unify import Models
from nan_merge.methods.units import OWN

LEAST = 1e-7  # product of standard deviations below which a unit counts as constant, as in the authors' code


def matching(
    encoder: Any,
    models: Models,
    inputs: Mapping[str, np.ndarray],
    progress: Progress = no_progress,
    *,
    match: Annotated[Literal["zip", "permutation"], "groups by ZipIt!, or of one unit of every network"] = "zip",
    examples: Annotated[int, Ge(1), "number of examples of each training split"] = 128,
    batch_size: Annotated[int, Ge(1), "examples a batch"] = 32,
    within: Annotated[float, Ge(0), Le(1), "of `zip`: share of the merges that may be within one network (beta)"] = 0.125,
    repeated: Annotated[float, Gt(0), Le(1), "of `zip`: factor on the similarities of a group, each time it grows (alpha)"] = 0.3,
    layers: Annotated[int, Ge(0), "first layers that are matched, the others stay apart; 0 for all"] = 0,
) -> dict[str, dict[str, np.ndarray]]:
    """Return by expert the groups of the outputs and inputs of every tensor, int64 as in `methods.units`.

    Units are compared by the correlation of their outputs, after the activation function, over the examples of all tasks and
    all positions. The inputs of the network and its last outputs have one meaning in all networks: each is a group of its own.
    `inputs` are those of the training split of each expert's task; `encoder` takes the weights of each expert.

    ASSUME: examples of all tasks enter every network in equal numbers, as in the authors' code.

    Raises UserError for a family that does not tell its layers, and for more `layers` than it has.
    """
    torch.set_num_threads(1)
    chain = _chain(encoder, layers)
    images = np.concatenate([np.asarray(each[:examples]) for each in inputs.values()])
    networks = [_network(encoder, model) for model in models.experts.values()]
    found = []
    for correlation in _correlations(networks, images, batch_size, layers or len(chain) - 1, progress):
        groups = permutations(correlation, len(networks))
        found.append(zipped(correlation, len(networks), within, repeated) if match == "zip" else groups)
    shapes = {name: tuple(encoder.get_parameter(name).shape) for name in models.merged}
    return {
        expert: _by_tensor(chain, [groups[t] for groups in found], shapes, layers > 0) for t, expert in enumerate(models.experts)
    }


def _chain(encoder: Any, layers: int) -> list[str]:
    """Return the names of the layers of a network; UserError for a family that does not tell them, and for too many `layers`."""
    if not hasattr(encoder, "chain"):
        raise UserError("matching: this family does not tell which layer reads which; use family convnet in the suite")
    if layers >= len(encoder.chain):
        most = len(encoder.chain) - 1
        raise UserError(
            f"config/calibration.yaml: kind: matching: layers: expected at most {most}, the layers of the network below its last;"
            f" found {layers}"
        )
    return list(encoder.chain)


def _network(encoder: Any, model: Any) -> Any:
    """Return a copy of the encoder with the weights of an expert."""
    network = copy.deepcopy(encoder)
    network.load_state_dict({name: torch.from_numpy(model.read(name)) for name in model.names})
    return network.eval()


@torch.inference_mode()
def _correlations(
    networks: Sequence[Any], images: np.ndarray, size: int, layers: int, progress: Progress
) -> Iterator[np.ndarray]:
    """Yield the correlations of all units of every layer in turn, (T n, T n) float64: network by network, computed in float64."""
    sums: list[Any] = [0.0] * layers
    products: list[Any] = [0.0] * layers
    counts = [0] * layers
    for rows in batches(len(images), size):
        seen = [network.activations(images[rows])[:layers] for network in networks]
        for number, outputs in enumerate(zip(*seen, strict=True)):
            x = torch.cat([each.movedim(1, -1).flatten(0, -2) for each in outputs], dim=1).double()
            sums[number], products[number] = sums[number] + x.sum(0), products[number] + x.T @ x
            counts[number] += len(x)
        progress(len(rows))
    for total, product, count in zip(sums, products, counts, strict=True):
        mean = total / count
        yield correlation((product / count - torch.outer(mean, mean)).cpu().numpy())


def correlation(covariance: np.ndarray) -> np.ndarray:
    """Return the Pearson correlations of a covariance matrix (n, n); those of a constant unit are 0."""
    deviation = np.sqrt(np.maximum(np.diagonal(covariance), 0))
    product = np.outer(deviation, deviation)
    return np.where(product > LEAST, covariance / np.maximum(product, LEAST), 0.0)


def permutations(similarity: np.ndarray, networks: int) -> np.ndarray:
    """Match the units of every network to those of the first, (T, n), by the largest sum of similarities (T n, T n).

    Linear assignment as in Git Re-Basin (arXiv 2209.04836), section 3.1.
    ASSUME: with more than two networks each is matched to the first, as ZipIt!'s code does; the paper has two.
    """
    from scipy.optimize import linear_sum_assignment  # here, since other calibration starts without it

    width = len(similarity) // networks
    found = np.tile(np.arange(width), (networks, 1))
    for t in range(1, networks):
        first, unit = linear_sum_assignment(similarity[:width, t * width : (t + 1) * width], maximize=True)
        found[t, unit] = first
    return found


def zipped(similarity: np.ndarray, networks: int, within: float, repeated: float) -> np.ndarray:
    """Put the units of T networks into n groups by ZipIt!'s greedy matching (section 4.3): (T, n) of similarities (T n, T n).

    The two most similar groups become one, until n are left. The similarity of a new group to another is the lesser of the
    two that were, times `repeated`. A network has a budget of `within` times n (T - 1) / T, rounded down, for merges of two
    groups that begin with units of it; without budget, groups that both hold units of it stay apart.

    DIFFERS: a network whose budget is 0 has no merge within from the start; the authors' code allows one.
    ASSUME: where no other pair is left, which takes three networks, groups are joined in spite of the budget.
    """
    similar, total = similarity.astype(np.float64), len(similarity)
    width = total // networks
    network = np.repeat(np.arange(networks), width)  # of the first unit of a group
    budget = np.full(networks, int((total - width) // networks * within + 1e-4))
    group, apart = np.arange(total), (network[:, None] == network) & (budget[network] == 0)
    np.fill_diagonal(similar, -np.inf)
    for _ in range(total - width):
        free = np.where(apart, -np.inf, similar)
        kept, gone = sorted(divmod(int((free if free.max() > -np.inf else similar).argmax()), total))
        group[group == gone] = kept
        similar[kept] = similar[:, kept] = repeated * np.minimum(similar[kept], similar[gone])
        apart[kept] = apart[:, kept] = apart[kept] | apart[gone]
        similar[gone] = similar[:, gone] = -np.inf
        if network[kept] == network[gone]:
            budget[network[kept]] -= 1
            if budget[network[kept]] == 0:
                of = network == network[kept]
                apart |= of[:, None] & of
    return np.unique(group, return_inverse=True)[1].reshape(networks, width)


def _by_tensor(
    chain: Sequence[str], groups: Sequence[np.ndarray], shapes: Mapping[str, Sequence[int]], apart: bool
) -> dict[str, np.ndarray]:
    """Return the groups of outputs and inputs of every tensor of one network, up to the layer above those that are matched.

    The outputs of that layer stay `apart`, or they are the last and have one meaning.
    """
    found = {}
    for number, layer in enumerate(chain[: len(groups) + 1]):
        for name in (f"{layer}.weight", f"{layer}.bias"):
            outputs, *inputs = shapes[name][:2]
            above = np.full(outputs, OWN) if apart else np.arange(outputs)
            below = [groups[number - 1] if number else np.arange(*inputs)] if inputs else []
            found[name] = np.concatenate([groups[number] if number < len(groups) else above, *below]).astype(np.int64)
    return found
