"""What runs models follows the device of the encoder, held on a fake GPU that refuses what a GPU refuses."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import safetensors.numpy
import torch
from calibration_suite import EXPERTS, PLUS, SCRIPTS, TUNING, aligned, arguments, clip_models, contents, opened, random_task
from fake_cuda import FAR, Far, FarDevice
from tiny_clips import EXPERTS as CLIPS
from torch.nn.attention import SDPBackend, sdpa_kernel

from nan_merge.calibration.adamerging import DifferentiableMerge, learn
from nan_merge.calibration.fisher import ESTIMATORS, fisher
from nan_merge.calibration.gram import gram
from nan_merge.calibration.gram_plus import gram_plus
from nan_merge.core.errors import UserError
from nan_merge.engine.request import Contexts
from nan_merge.methods.recipe import bind
from nan_merge.models.families import clip, image_encoder, open_clip, text_encoder
from nan_merge.models.training import Task, finetune
from scripts import finetune_checkpoint

FAMILIES = {"text_encoder": text_encoder, "image_encoder": image_encoder, "clip": clip, "open_clip": open_clip}
SMALL = {"examples": 6, "batch_size": 4}
IMAGES = {"stem": 4, "head": 12, "projection": 6, "stages": [[1, 3, 1, 1, 4, 4], [1, 3, 2, 2, 4, 6]]}


@pytest.fixture
def load(suite, world):
    """Load an expert of a family."""

    def loaded(family):
        if family == "image_encoder":
            torch.manual_seed(0)
            return image_encoder.Encoder(IMAGES).eval()
        return FAMILIES[family].load(suite / "one" if family == "text_encoder" else world / family / "one")

    return loaded


@pytest.fixture
def task_of(tasks):
    """Return a task of a family."""
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (7, 16, 16, 3), dtype=np.uint8)
    small = Task(images, np.arange(7) % 3, draw.normal(size=(3, 6)).astype(np.float32), 5.0)
    return lambda family: {"text_encoder": random_task(0), "image_encoder": small}.get(family, tasks[0])


def in_both_places(work, far=FAR.type):
    """Return what `work(place)` gives on the host and far away, where it must do all that is heavy."""
    with sdpa_kernel(SDPBackend.MATH):
        here = work("cpu")
        with FarDevice() as mode:
            there = work(far)
    assert mode.far > 20 and not mode.near
    return here, there


def same(here, there):
    """Hold that arrays by name are NumPy's, of one type and equal but for the order of sums."""
    assert here.keys() == there.keys() and len(here)
    for name, expected in here.items():
        assert type(there[name]) is np.ndarray and there[name].dtype == expected.dtype
        np.testing.assert_allclose(there[name], expected, rtol=1e-5, atol=1e-6 * abs(expected).max(), err_msg=name)


# The fake GPU.


def test_the_fake_refuses_what_a_gpu_refuses():
    near = torch.ones(3)
    with FarDevice() as mode:
        far = torch.ones(3, device=FAR)
        assert isinstance(far, Far) and far.device == FAR and torch.zeros_like(far).device == FAR
        for wrong in (lambda: far + near, lambda: far @ near, lambda: torch.stack([far, near]), lambda: far[near > 0]):
            with pytest.raises(RuntimeError, match="same device"):
                wrong()
        with pytest.raises(RuntimeError, match="numpy"):
            far.numpy()
        assert (far * torch.tensor(2.0)).tolist() == [2, 2, 2] and float(far.sum()) == 3
        assert type(far.cpu()) is torch.Tensor and (far + near.to(far.device)).cpu().numpy().tolist() == [2, 2, 2]
        assert not mode.near
        near.reshape(1, 3) @ near.reshape(3, 1)
        assert mode.near == {"mm"}


# The library.


@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_fisher_and_gram_follow_the_encoder(family, load, task_of):
    task, rows = task_of(family), [np.arange(4), np.arange(4, 7)]

    def work(place):
        encoder = load(family).to(place)
        with torch.no_grad():
            found = {"embeddings": torch.cat([encoder(task.inputs[batch]) for batch in rows]).cpu().numpy()}
        for estimator in ESTIMATORS:
            tensors = fisher(encoder, task, estimator=estimator, **SMALL)
            found |= {f"{estimator} {name}": tensor for name, tensor in tensors.items()}
        return found | gram(encoder, task, **SMALL)

    same(*in_both_places(work))


@pytest.mark.parametrize("family", ["text_encoder", "clip", "open_clip"])
def test_gram_plus_follows_the_encoder(family, suite, world, tasks):
    if family == "text_encoder":
        base, together, inputs = suite / "base", aligned(suite), {name: random_task(t).inputs for t, name in enumerate(EXPERTS)}
    else:
        base, together = world / family / "base", clip_models(world, family)
        inputs = {name: task.inputs for name, task in zip(CLIPS, tasks, strict=True)}
    here, there = in_both_places(lambda place: gram_plus(FAMILIES[family].load(base).to(place), together, inputs, **SMALL))
    for expert in here:
        same(here[expert], there[expert])


METHOD_SPECS = {
    "plain": {},
    "plus": PLUS,
    "dropped": {"preprocess": {"drop": {}}, "combine": {"disjoint_mean": {"divide_by": "coefficients"}}},
    "matrices": {"combine": {"tsv": {}}, "postprocess": {"svc": {}}},
    "entries": {"combine": "consensus", "postprocess": {"lines": {}}},
}


@pytest.mark.parametrize("method_spec", METHOD_SPECS)
def test_coefficients_are_learned_on_the_device(suite, method_spec):
    _, cuts = opened(suite, METHOD_SPECS[method_spec])

    def work(place):
        merge = DifferentiableMerge(bind(METHOD_SPECS[method_spec]), Contexts(aligned(suite), cuts), device=place)
        encoder = text_encoder.load(suite / "base").to(place)
        learned = learn(encoder, merge, [random_task(t) for t in range(3)], 0, steps=3, learning_rate=0.05, batch_size=5)
        return {"losses": np.array(learned.losses), **{row: np.array(found) for row, found in learned.table.rows.items()}}

    same(*in_both_places(work))


def test_an_encoder_is_tuned_on_the_device(suite, fused):
    task = random_task(0)

    def work(place):
        encoder = text_encoder.load(suite / "base").to(place)
        losses = finetune(encoder, task.inputs, task.labels, task.head, {**TUNING, "steps": 4}, seed=0)
        return {name: tensor.cpu().numpy() for name, tensor in encoder.state_dict().items()} | {"losses": np.array(losses)}

    same(*in_both_places(work))


@pytest.fixture
def fused(monkeypatch):
    """Let the fused AdamW run on the fake GPU too."""
    module = sys.modules[torch.optim.Optimizer.__module__]
    monkeypatch.setattr(module, "_get_fused_kernels_supported_devices", lambda: ["cpu", "cuda", FAR.type])


# Scripts.


@pytest.fixture
def gpu(monkeypatch):
    """Let torch find one GPU."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda place: "fake")


def commands(suite, script, output):
    """Return the command line of a script and its function."""
    if script != "finetune":
        return arguments(suite, script, output), SCRIPTS[script].main
    spec = json.dumps({"settings": {**TUNING, "steps": 2}})
    of_script = ["--base", suite / "base", "--dataset", suite / "data/one", "--head", suite / "one.safetensors", "--seed", 0]
    line = ["finetune_checkpoint", *map(str, of_script), "--spec", spec, "--family", "text_encoder"]
    return [*line, "--output", str(output)], finetune_checkpoint.main


@pytest.mark.parametrize("script", [*SCRIPTS, "finetune"])
def test_a_script_works_on_the_device_and_says_so(suite, tmp_path, monkeypatch, gpu, fused, script):
    def work(place):
        line, main = commands(suite, script, tmp_path / place)
        monkeypatch.setattr("sys.argv", [*line, "--device", place])
        main()
        return contents(tmp_path / place)

    here, there = in_both_places(work, "cuda")
    assert here.keys() == there.keys()
    for name in here:
        if name.endswith(".safetensors"):
            same(*(safetensors.numpy.load(files[name]) for files in (here, there)))
        if name.endswith("calibration.json") or script == "learned":
            record = json.loads(there[name])
            assert (record["device"], record["gpu"], record["dtype"]) == ("cuda", "fake", "float32")
            assert record.keys() - json.loads(here[name]).keys() == {"device", "gpu", "dtype", "threads"}


@pytest.mark.parametrize("script", [*SCRIPTS, "finetune"])
@pytest.mark.parametrize("place", ["gpu", "cuda:7"])
def test_a_device_that_is_not_there_stops_a_script_before_it_reads(suite, tmp_path, monkeypatch, script, place):
    line, main = commands(suite, script, tmp_path / "out")
    line[line.index("--family") + 1] = "no_family"
    monkeypatch.setattr("sys.argv", [*line, "--device", place])
    with pytest.raises(UserError, match=f"device '{place}'"):
        main()
    assert not (tmp_path / "out").exists()
