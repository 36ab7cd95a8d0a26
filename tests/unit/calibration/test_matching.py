"""Networks without a common base: matched units, by laws on permuted copies and by a second implementation."""

from types import SimpleNamespace

import numpy as np
import oracles_units as oracle
import pytest
import torch
from models import merge_measured

from nan_merge.calibration.matching import correlation, matching, permutations, zipped
from nan_merge.calibration.records import write_calibration
from nan_merge.checkpoints.checkpoint import Checkpoint, write_checkpoint
from nan_merge.core.errors import UserError
from nan_merge.engine import measure
from nan_merge.layouts.unify import unify_layout
from nan_merge.methods.context import TensorContext
from nan_merge.methods.recipe import bind
from nan_merge.methods.units import OWN, matched, shared_trunk
from nan_merge.models.families import convnet

NETWORK = {"widths": [6, 5, 7], "projection": 8}
SPECS = {
    "whole": {"preprocess": "matched", "coefficients": {"uniform": {"total": 1}}},
    "partial": {"preprocess": "matched", "coefficients": {"uniform": {"total": 1}}, "combine": "shared_trunk"},
}
SETTINGS = {"examples": 20, "batch_size": 7}
both = pytest.mark.parametrize("match", ["zip", "permutation"])


def random_network(seed):
    """Return the tensors of a network of random weights and biases."""
    encoder, draw = convnet.Encoder(NETWORK), np.random.default_rng([seed, 7])
    convnet.initialise(encoder, [seed])
    found = {name: tensor.detach().numpy().copy() for name, tensor in encoder.state_dict().items()}
    return {n: a if a.ndim > 1 else draw.uniform(0.1, 0.5, a.shape).astype(np.float32) for n, a in found.items()}


def permuted(network, seed):
    """Return a network with its hidden units in another order, and the orders: unit i of layer l was unit `orders[l][i]`."""
    draw, found = np.random.default_rng(seed), dict(network)
    layers = [f"layers.{number}" for number in range(3)]
    orders = [draw.permutation(width) for width in NETWORK["widths"]]
    for layer, above, order in zip(layers, [*layers[1:], "projection"], orders, strict=True):
        for kind in ("weight", "bias"):
            found[f"{layer}.{kind}"] = found[f"{layer}.{kind}"][order]
        found[f"{above}.weight"] = found[f"{above}.weight"][:, order]
    return found, orders


@pytest.fixture(scope="module")
def images():
    """Two sets of pictures of few colours, whose neighbours are alike."""
    coarse = np.random.default_rng(3).integers(0, 256, (60, 5, 5, 3))
    return dict(zip("ab", np.kron(coarse, np.ones((1, 4, 4, 1))).astype(np.uint8).reshape(2, 30, 20, 20, 3), strict=True))


@pytest.fixture
def world(tmp_path):
    """Return a function that writes networks below a base of zeros, and returns them in one layout."""

    def write(**networks):
        convnet.build(NETWORK, tmp_path / "base")
        config = {"model_type": "convnet", **NETWORK}
        for name, tensors in networks.items():
            write_checkpoint(tmp_path / name, tensors, config)
        return unify_layout(tmp_path / "base", {name: tmp_path / name for name in networks})

    return write


def collected(models, images, **settings):
    return matching(convnet.load(models.base.folder), models, images, **SETTINGS, **settings)


def merged(models, statistics, spec, output, task=None):
    """Merge as the rules do: calibration by file, norms, coefficients; return the merged encoder."""
    folders = {name: output.parent / "calibration" / output.name / name for name in statistics}
    for name, tensors in statistics.items():
        write_calibration(folders[name], tensors, {})
    read = {name: Checkpoint(folder) for name, folder in folders.items()}
    recipe = bind(spec)
    merge_measured(models, recipe, recipe.estimate(measure.norms(models)), {}, output, calibration=read, task=task)
    return convnet.load(output)


@both
def test_a_network_and_its_permuted_copy_merge_to_the_network(match, world, images, tmp_path):
    network = random_network(0)
    models = world(a=network, b=permuted(network, 1)[0])
    found = merged(models, collected(models, images, match=match), SPECS["whole"], tmp_path / "out")
    plain = merged(models, {}, {**SPECS["whole"], "preprocess": "identity"}, tmp_path / "plain")
    expected = convnet.load(tmp_path / "a")(images["a"])
    assert abs(found(images["a"]) - expected).max() < 1e-5 < 0.01 < abs(plain(images["a"]) - expected).max()
    if match == "permutation":
        assert all((tensor.numpy() == network[name]).all() for name, tensor in found.state_dict().items())


@both
def test_planted_permutations_are_recovered(match, world, images):
    network = random_network(0)
    other, orders = permuted(network, 1)
    third, more = permuted(network, 2)
    found = collected(world(a=network, b=other, c=third), images, match=match)
    for number, (of_other, of_third) in enumerate(zip(orders, more, strict=True)):
        name = f"layers.{number}.bias"
        assert (found["b"][name] == found["a"][name][of_other]).all() and (found["c"][name] == found["a"][name][of_third]).all()


def test_a_network_that_is_zipped_below_with_its_copy_keeps_its_function(world, images, tmp_path):
    network = random_network(0)
    models = world(a=network, b=permuted(network, 1)[0])
    statistics = collected(models, images, layers=2)
    by_task = {task: merged(models, statistics, SPECS["partial"], tmp_path / f"for_{task}", task) for task in "ab"}
    one, other = (encoder.state_dict() for encoder in by_task.values())
    for name in one.keys() - {"projection.bias"}:  # which both networks have in common
        assert (name[:8] in ("layers.0", "layers.1")) == torch.equal(one[name], other[name]), name
    for encoder in by_task.values():
        assert abs(encoder(images["a"]) - convnet.load(tmp_path / "a")(images["a"])).max() < 1e-5


def test_different_networks_are_zipped_as_the_oracle_does(world, images, tmp_path):
    networks = {name: random_network(seed) for seed, name in enumerate("ab")}
    models = world(**networks)
    statistics = collected(models, images)
    seen, chain = np.concatenate([images["a"][:20], images["b"][:20]]), [*(f"layers.{i}" for i in range(3)), "projection"]
    pixels = (seen.astype(np.float64) / 127.5 - 1).transpose(0, 3, 1, 2)
    layers = {n: [(t[f"{x}.weight"].astype(float), t[f"{x}.bias"].astype(float)) for x in chain] for n, t in networks.items()}
    outputs = {name: oracle.convolved(network, pixels) for name, network in layers.items()}
    groups = []
    for number, width in enumerate(NETWORK["widths"]):
        units = [outputs[name][1][number].transpose(1, 0, 2, 3).reshape(width, -1) for name in "ab"]
        sets = oracle.greedy(np.nan_to_num(np.corrcoef(np.concatenate(units))), 2, 0.125, 0.3)
        found = [[(t, j) for t, name in enumerate("ab") for j in range(width)
                  if statistics[name][f"layers.{number}.bias"][j] == g] for g in range(width)]  # fmt: skip
        assert {frozenset(t * width + j for t, j in each) for each in found} == {frozenset(each) for each in sets}
        groups.append([[next(g for g, each in enumerate(sets) if t * width + j in each) for j in range(width)] for t in range(2)])
    zipped_layers = []
    for number in range(4):
        pair = [layers[name][number] for name in "ab"]
        out = groups[number] if number < 3 else [list(range(8))] * 2
        below = groups[number - 1] if number else [[0, 1, 2]] * 2
        both_sides = [np.concatenate(each) for each in zip(out, below, strict=True)]
        zipped_layers.append((oracle.matched(np.stack([w for w, _ in pair]), both_sides).mean(0),
                              oracle.matched(np.stack([b for _, b in pair]), out).mean(0)))  # fmt: skip
    result = merged(models, statistics, SPECS["whole"], tmp_path / "out")
    assert abs(result(seen).detach().numpy() - oracle.convolved(zipped_layers, pixels)[0]).max() < 1e-5


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("within", [0.0, 0.125, 0.5, 1.0])
@pytest.mark.parametrize("repeated", [0.3, 1.0])
def test_groups_are_those_of_a_naive_greedy_matching(count, within, repeated):
    samples = np.random.default_rng(5).standard_normal((count * 12, 20))
    similarity = np.corrcoef(samples)
    found = zipped(similarity, count, within, repeated).ravel()
    assert {*found} == set(range(12)), "as many groups as one network has units"
    sets = {frozenset(np.flatnonzero(found == g)) for g in range(12)}
    assert sets == {frozenset(each) for each in oracle.greedy(similarity, count, within, repeated)}


def test_a_permutation_is_the_best_of_all():
    similarity = np.corrcoef(np.random.default_rng(6).standard_normal((12, 9)))
    found = permutations(similarity, 2)
    order = oracle.best_permutation(similarity[:6, 6:])
    assert (found[0] == np.arange(6)).all() and [int(np.flatnonzero(found[1] == i)[0]) for i in range(6)] == list(order)


def test_a_constant_unit_is_like_no_other():
    found = correlation(np.array([[4.0, 2.0, 0.0], [2.0, 4.0, 0.0], [0.0, 0.0, 0.0]]))
    assert found.tolist() == [[1.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 0.0]]


def test_convolutions_and_layers_above_are_matched_as_in_the_oracle():
    draw = np.random.default_rng(8)
    weights = draw.standard_normal((3, 5, 4, 3, 3))
    statistics = [np.concatenate([draw.integers(5, size=5), draw.integers(4, size=4)]) for _ in range(3)]
    above = [np.concatenate([np.full(5, OWN), each[5:]]) for each in statistics]
    for groups in (statistics, above):
        base = draw.standard_normal((5, 4, 3, 3))
        at = [TensorContext("w", base=base, calibration=groups, index=t, task=1) for t in range(3)]
        taus = [matched(weights[t] - base, at[t]) for t in range(3)]
        np.testing.assert_allclose([tau + base for tau in taus], oracle.matched(weights, groups), atol=1e-12)
        kept = sum(taus) / 3 if groups is statistics else taus[1]
        np.testing.assert_allclose(shared_trunk(taus, [1 / 3] * 3, at[0]), kept, atol=1e-12)


def test_what_does_not_fit_is_refused_with_its_reason(world, images):
    models = world(a=random_network(0), b=random_network(1))
    with pytest.raises(UserError, match="layers: expected at most 3, the layers of the network below its last; found 4"):
        collected(models, images, layers=4)
    with pytest.raises(UserError, match="does not tell which layer reads which; use family convnet"):
        matching(SimpleNamespace(), models, images)
    at = TensorContext("layers.0.weight", base=np.zeros((6, 3)), calibration=[np.zeros(8)] * 2)
    with pytest.raises(UserError, match=r"tensor 'layers.0.weight' \[6, 3\]: expected 9 groups of every network, found \[8, 8\]"):
        matched(np.zeros((6, 3)), at)
    with pytest.raises(UserError, match="shared_trunk makes a model for each task; name one with `--task`"):
        shared_trunk(np.zeros((2, 6, 3)), [0.5, 0.5], TensorContext("w"))
