"""Networks from scratch: forward passes, random weights by seed, a base of zeros; answers of several networks."""

import json

import numpy as np
import oracles_units as oracle
import pytest
import torch

from nan_merge.checkpoints.checkpoint import Checkpoint, write_checkpoint, write_tensors
from nan_merge.core.errors import UserError
from nan_merge.data.dataset import write_dataset
from nan_merge.models.families import convnet
from nan_merge.models.heads import Head
from nan_merge.models.registry import find_family
from scripts import build_network, evaluate_checkpoint

NETWORK = {"widths": [4, 6], "projection": 5}
CLASSES = {"one": 3, "two": 2}


def initialised(*seed):
    encoder = convnet.Encoder(NETWORK)
    convnet.initialise(encoder, seed)
    return encoder


def tensors_of(encoder):
    return {name: tensor.detach().numpy() for name, tensor in encoder.state_dict().items()}


def pictures(count, seed=0):
    """Draw pictures that are of three colours at most, so that they differ when they are pooled."""
    colours = np.random.default_rng(seed).choice([0, 128, 255], (count, 1, 3, 3)).astype(np.uint8)
    return np.repeat(np.repeat(colours, 6, axis=2)[:, :, :16], 16, axis=1)


def test_a_forward_pass_is_that_of_the_layers():
    encoder, images = initialised(1), pictures(3)
    with torch.no_grad():
        for layer in encoder.layers:
            layer.bias.uniform_(-0.2, 0.2)
    state = {name: tensor.astype(np.float64) for name, tensor in tensors_of(encoder).items()}
    layers = [(state[f"{name}.weight"], state[f"{name}.bias"]) for name in encoder.chain]
    expected, outputs = oracle.convolved(layers, (images / 127.5 - 1).transpose(0, 3, 1, 2))
    np.testing.assert_allclose(encoder(images).detach().numpy(), expected, atol=1e-5)
    for found, output in zip(encoder.activations(images), outputs, strict=True):
        np.testing.assert_allclose(found.detach().numpy(), output, atol=1e-5)


def test_as_many_layers_as_halvings_of_the_images_and_no_more():
    images = pictures(2)  # of 16 pixels
    assert convnet.Encoder({"widths": [2] * 5, "projection": 3}).activations(images)[-1].shape[2:] == (1, 1)
    with pytest.raises(UserError, match=r"widths: 6 convolutions, and images of 16 pixels .* expected at most 5, or a larger"):
        convnet.Encoder({"widths": [2] * 6, "projection": 3})(images)


def test_a_projection_of_another_width_than_the_head_is_refused():
    with pytest.raises(UserError, match=r"embeddings of 5 numbers, the head takes 7; .* or set `network: projection: 7`"):
        Head.of_rows(np.ones((3, 7), np.float32))(initialised(1)(pictures(2)))


def test_random_weights_depend_on_the_seed_alone_and_have_the_variance_of_he():
    one, again, other = (tensors_of(initialised(*seed)) for seed in ((0, 1), (0, 1), (0, 2)))
    assert all((one[name] == again[name]).all() for name in one)
    assert not np.array_equal(one["layers.0.weight"], other["layers.0.weight"])
    wide = convnet.Encoder({"widths": [64, 64], "projection": 8})
    convnet.initialise(wide, [0])
    assert wide.layers[1].weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)
    assert not wide.layers[1].bias.any()


def test_the_base_is_the_network_of_zeros(tmp_path, monkeypatch):
    words = ["--family", "convnet", "--output", str(tmp_path / "base"), "--spec", json.dumps({"network": NETWORK})]
    monkeypatch.setattr("sys.argv", ["build_network", *words])
    build_network.main()
    base, expected = Checkpoint(tmp_path / "base"), tensors_of(initialised(0))
    assert {name: base.shape(name) for name in base.names} == {name: each.shape for name, each in expected.items()}
    assert not any(base.read(name).any() for name in base.names)
    convnet.initialise(convnet.load(tmp_path / "base"), [0])  # what training begins with


def test_a_network_is_not_prepared_from_a_base():
    with pytest.raises(UserError, match=r"family convnet has no `prepare`; .* write `network:` in place of `base:`"):
        find_family("convnet", "prepare")


def test_a_family_that_is_fine_tuned_from_a_base_builds_no_network():
    with pytest.raises(UserError, match=r"family image_encoder has no `build`; .* write `base:` in place of `network:`"):
        find_family("image_encoder", "build")


# Several networks and tasks in one job.


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two networks, and two tasks with heads."""
    folder, draw = tmp_path_factory.mktemp("answers"), np.random.default_rng(2)
    for seed, (task, classes) in enumerate(CLASSES.items()):
        write_checkpoint(folder / f"net_{task}", tensors_of(initialised(seed)), {"model_type": "convnet", **NETWORK})
        record = {"classes": [f"{task} {k}" for k in range(classes)]}
        write_dataset(folder / task, record, {"test": (pictures(30, seed), draw.integers(0, classes, 30))})
        with torch.no_grad():
            mean = initialised(seed)(pictures(30, seed)).mean(0).numpy()  # along it nothing is told apart
        rows = draw.normal(size=(classes, 5)).astype(np.float32)
        write_tensors(folder / f"{task}.safetensors", {"head": rows - np.outer(rows @ mean, mean) / (mean @ mean)})
    return folder


def predicted(folder, out, monkeypatch, networks, *words):
    """Return the predictions and labels of both tasks by the script."""
    names = ["--family", "convnet", "--suite", "s", "--method", "m", "--seed", "0", "--checkpoints"]
    names += [str(folder / f"net_{task}") for task in networks]
    names += ["--datasets", *(str(folder / task) for task in CLASSES)]
    names += ["--heads", *(str(folder / f"{task}.safetensors") for task in CLASSES)]
    monkeypatch.setattr("sys.argv", ["evaluate_checkpoint", *names, "--scores", str(out / "scores.json"),
                                     "--predictions", str(out / "predictions.npz"), *words])  # fmt: skip
    evaluate_checkpoint.main()
    found = np.load(out / "predictions.npz")
    scores = {each["task"]: each["value"] for each in json.loads((out / "scores.json").read_text())["scores"]}
    assert scores == {task: (found[f"{task}.prediction"] == found[f"{task}.label"]).mean() for task in CLASSES}
    return {task: (found[f"{task}.prediction"], found[f"{task}.label"]) for task in CLASSES}


def logits(folder, network, images, head):
    with torch.no_grad():
        embeddings = convnet.load(folder / f"net_{network}")(images).numpy()
    return embeddings @ Checkpoint(folder / f"{head}.safetensors").read("head").T


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("kind", ["one network", "one for each task", "ensemble"])
def test_logits_are_joined_over_networks_and_tasks(kind, joint, folder, tmp_path, monkeypatch):
    networks = ["one"] if kind == "one network" else ["one", "two"]
    words = ["--joint"] * joint + ["--ensemble"] * (kind == "ensemble")
    found = predicted(folder, tmp_path, monkeypatch, networks, *words)
    answers: set[int] = set()
    for number, task in enumerate(CLASSES):
        images, labels = (np.load(folder / task / f"test.{part}.npy") for part in ("inputs", "labels"))
        columns = []
        for head in CLASSES if joint else [task]:
            of = {"one network": ["one"], "one for each task": [head], "ensemble": ["one", "two"]}[kind]
            columns.append(np.mean([logits(folder, network, images, head) for network in of], axis=0))
        expected = np.concatenate(columns, axis=1).argmax(1)
        assert (found[task][0] == expected).all()
        answers |= {*expected}
        assert (found[task][1] == labels + (3 * number if joint else 0)).all()
    assert len(answers) > 1, "a test of one answer would prove nothing"
