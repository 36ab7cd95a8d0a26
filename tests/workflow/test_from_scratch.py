"""Networks without a common base by the rules: random weights, matched units, a shared trunk, classes of all tasks."""

import csv
import gzip
import struct
import tarfile

import numpy as np
import pytest
import tiny
import torch
from project import Project

from nan_merge.checkpoints.checkpoint import Checkpoint
from nan_merge.models.families import convnet
from nan_merge.models.heads import Head

TASKS = {"fruits": {"0": "apple", "1": "banana"}, "kit": {"2": "hammer", "3": "brush"}}
METHODS = ["individual", "ensemble", "weight_averaging", "rebasin", "zipit", "zipit+nan", "zipit_partial"]
SUITE = {
    "label": "Tiny networks", "family": "convnet", "network": {"widths": [5, 6, 4], "projection": tiny.BERT["hidden_size"]},
    "text_tower": "tiny_bert", "input": {"side": 16}, "tasks": list(TASKS), "groups": {"all": list(TASKS)}, "merge": {},
    "finetune": {"learning_rate": 3e-3, "steps": 30, "batch_size": 16, "logit_scale": 10.0, "weight_decay": 0.0, "frozen": []},
}  # fmt: skip


def pictures(count, seed):
    """Draw grey pictures of four classes: which quarter is bright."""
    draw = np.random.default_rng(seed)
    images, labels = draw.integers(0, 90, (count, 16, 16)), np.arange(count) % 4
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 2)
        image[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] += 150
    return images.astype(np.uint8), labels.astype(np.uint8)


def write_pictures(folder):
    inside = folder / "pictures"
    inside.mkdir()
    for seed, (stem, count) in enumerate({"train": 240, "t10k": 80}.items()):
        for kind, array in zip(("images-idx3", "labels-idx1"), pictures(count, seed), strict=True):
            head = struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape)
            (inside / f"{stem}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes(), mtime=0))
    with tarfile.open(folder / "tiny_pictures.tar", "w") as bundle:
        bundle.add(inside, "pictures")


def task(name):
    about = {
        "label": name,
        "reader": "images.idx",
        "assets": ["tiny_pictures"],
        "classes": TASKS[name],
        "prompt": "a text about {}",
    }
    return {**about, "splits": {"train": 50, "validation": 8, "test": 18}, "licence": "none", "source": "drawn"}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    project = Project(tiny.build(tmp_path_factory.mktemp("scratch") / "project"))
    write_pictures(project / "archives")
    place = {"kind": "path", "path": "archives/tiny_pictures.tar", "root": "pictures", "licence": "none", "source": "drawn"}
    project.edit("config/assets.yaml", lambda assets: assets.update(tiny_pictures=place))
    project.edit("config/tasks.yaml", lambda tasks: tasks.update({name: task(name) for name in TASKS}))
    tiny.write_yaml(project / "config/suites/scratch.yaml", SUITE)
    tiny.write_yaml(project / "config/suites/scratch_joint.yaml", {"label": "All", "merges": "scratch", "joint": True})
    shown = {"tables": ["main", "comparisons"], "figures": ["accuracy"]}
    suites = ["scratch", "scratch_joint"]
    project.edit("config/config.yaml", lambda config: config.update(suites=suites, methods=METHODS, **shown))
    tiny.lock(project.folder, "tiny_pictures")
    project.made()
    return project


def test_experts_begin_at_weights_of_their_own_and_the_base_is_zero(ran):
    base, *experts = (
        Checkpoint(ran / f"results/checkpoints/scratch/{name}") for name in ("pretrained", "seed0/fruits", "seed0/kit")
    )
    assert not any(base.read(name).any() for name in base.names)
    one, other = (each.read("layers.0.weight").ravel() for each in experts)
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.5, "of one base they would be alike"


def test_a_partial_zip_is_a_model_for_each_task_with_one_trunk(ran):
    models = [convnet.load(ran / f"results/merged/scratch/zipit_partial/seed0/{task}").state_dict() for task in TASKS]
    shared = {name for name in models[0] if torch.equal(models[0][name], models[1][name])}
    assert shared == {f"layers.{i}.{kind}" for i in (0, 1) for kind in ("weight", "bias")}


@pytest.mark.parametrize("suite", ["scratch", "scratch_joint"])
@pytest.mark.parametrize("method", ["individual", "ensemble", "zipit"])
def test_answers_are_those_of_the_networks_and_heads(suite, method, ran):
    found = np.load(ran / f"results/scores/{suite}/{method}/seed0/all.npz")
    experts = [ran / f"results/checkpoints/scratch/seed0/{name}" for name in TASKS]
    heads = {name: Head.read(ran / f"results/heads/tiny_bert/{name}.safetensors") for name in TASKS}
    for number, name in enumerate(TASKS):
        images = np.load(ran / f"results/datasets/scratch/{name}/test.inputs.npy")
        columns = []
        for other, expert in zip(TASKS, experts, strict=True):
            of = {"individual": [expert], "ensemble": experts}.get(method, [ran / "results/merged/scratch/zipit/seed0"])
            with torch.no_grad():
                columns.append(torch.stack([heads[other](convnet.load(folder)(images)) for folder in of]).mean(0))
        logits = torch.cat(columns, 1) if suite == "scratch_joint" else columns[number]
        assert (found[f"{name}.prediction"] == logits.argmax(1).numpy()).all()
        own = np.load(ran / f"results/datasets/scratch/{name}/test.labels.npy")
        assert (found[f"{name}.label"] == own + (2 * number if suite == "scratch_joint" else 0)).all()


def test_every_method_is_in_the_tables_of_both_suites(ran):
    for suite in ("scratch", "scratch_joint"):
        with open(ran / f"results/tables/main_{suite}.csv", newline="") as lines:
            rows = {row["method"]: row for row in csv.DictReader(lines)}
        assert list(rows) == METHODS and all(row["average"] for row in rows.values())
