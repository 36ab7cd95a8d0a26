"""A suite whose base and experts are folders of this machine, as Hugging Face saves models."""

import tarfile

import numpy as np
import pytest
import tiny
from project import Project
from safetensors.numpy import load_file, save_file

MERGED = "results/merged/tiny/ties/seed0"


@pytest.fixture
def of_folders(tmp_path):
    """The tiny project with a base and experts in `models/`."""
    fresh = Project(tiny.build(tmp_path / "project"))
    base = fresh / "models/base"
    with tarfile.open(fresh / "archives/tiny_bert.tar") as bundle:
        bundle.extractall(base, filter="data")
    tensors, draw = load_file(base / "model.safetensors"), np.random.default_rng(0)
    for task in tiny.TASKS:
        base.parent.joinpath(task).mkdir()
        for name in ("config.json", "tokenizer.json"):
            (fresh / f"models/{task}" / name).write_bytes((base / name).read_bytes())
        moved = {n: (t + 0.01 * draw.standard_normal(t.shape)).astype(t.dtype) for n, t in tensors.items()}
        save_file(moved, fresh / f"models/{task}/model.safetensors")
    folder = {"kind": "path", "licence": "none", "source": "random numbers"}
    experts = {**folder, "path": "models/{}", "each": {task: task for task in tiny.TASKS}}
    fresh.edit("config/assets.yaml", lambda a: a.update({"base": {**folder, "path": "models/base"}, "expert_{}": experts}))
    fetched = {key: value for key, value in tiny.SUITE.items() if key not in ("finetune", "premise")}
    own = {"base": "base", "text_tower": "base", "input": {"tokenizer": "base", "length": 12}, "experts": "expert_{}"}
    tiny.write_yaml(fresh / "config/suites/tiny.yaml", {**fetched, **own, "logit_scale": 10.0})
    return fresh


def test_a_suite_of_folders_is_locked_merged_and_scored(of_folders):
    done = of_folders.shell("PYTHONPATH=workflow:. python -m scripts.update_lock --suite tiny")
    assert done.code == 0 and "expert_fruit: 3 files, " in done.text, done.text
    of_folders.made(MERGED, "results/scores/tiny/ties/seed0/all.json")
    assert (of_folders / MERGED / "model.safetensors").is_file()
    of_folders.remove("results")
    save_file({"x": np.zeros(1, np.float32)}, of_folders / "models/fruit/model.safetensors")
    done = of_folders.run("results/assets/expert_fruit")
    assert done.code != 0 and "models/fruit/model.safetensors: expected" in done.text and "Traceback" not in done.text
