"""A project for the small CLIP experiment: the shipped config with entries in the style of those of the papers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import tiny
import tiny_clip_experiment
from clip_hub import TASKS
from project import Done, Project
from tiny_clip_experiment import Task

OVERLAY = "config/papers/others.yaml"  # the same on the other two collections
TOKEN = "hf_a_secret_of_this_test"
METHODS = ["pretrained", "individual", "weight_averaging", "regmean", "task_arithmetic", "task_arithmetic+nan_delta", "ties",
           "ace"]  # fmt: skip
SHARED = ["individual", "weight_averaging", "ties"]  # what the other collections are merged and scored by
SUITES: dict[str, dict[str, Any]] = {  # by id; other keys come from a shipped suite of the same collection
    "tiny": {"extends": "vit_b32_20", "base": "clip_tiny", "text_tower": "clip_tiny", "experts": "clip_tiny_{}",
             "checkpoints": "clip_tiny"},
    "tiny_b": {"extends": "vit_b32_20_b", "base": "open_clip_tiny", "text_tower": "open_clip_tiny",
               "experts": "tall_masks_tiny_{}", "checkpoints": "tall_masks_tiny"},
    "tiny_a": {"extends": "vit_b32_8_a", "base": "open_clip_tiny", "text_tower": "open_clip_tiny",
               "experts": "task_vectors_tiny_{}", "checkpoints": "task_vectors_tiny"},
}  # fmt: skip


def build(folder: Path, published: Path, world: dict[str, Task], printed: dict[str, float]) -> Project:
    """Make the project; nothing is locked or run. `published` is what `clip_hub.build` wrote, `printed` averages by method."""
    project = Project(tiny.copy_code(folder))
    shutil.copytree(published / "task_vectors", project / "checkpoints/task_vectors")
    project.edit("config/assets.yaml", lambda assets: assets.update(_assets()))
    project.edit("config/tasks.yaml", lambda tasks: tasks.update({name: _task(name, task) for name, task in world.items()}))
    for name, task in world.items():
        classes = task.words if name == "scans" else dict(zip(task.names, task.words, strict=True))
        words = {"source": "made here", "prompt": task.templates, "classes": classes}
        tiny.write_yaml(project / f"config/class_names/{name}.yaml", words)
    for suite, record in SUITES.items():
        shared = {"label": f"Tiny CLIP, {suite}", "published": "tiny_3", "logit_scale": tiny_clip_experiment.SCALE,
                  "data": "clip_tiny",
                  "input": {"side": tiny_clip_experiment.SIDE}, "tasks": list(TASKS), "groups": {"all": list(TASKS)}}  # fmt: skip
        tiny.write_yaml(project / f"config/suites/{suite}.yaml", {**record, **shared})
    run = {
        "seeds": [0],
        "suites": ["tiny"],
        "methods": METHODS,
        "tables": ["main", "experts"],
        "figures": [],
        "published": ["tiny"],
    }
    tiny.write_yaml(project / "config/config.yaml", run)
    tiny.write_yaml(project / OVERLAY, {"suites": ["tiny_b", "tiny_a"], "methods": SHARED, "tables": ["main"]})
    project.edit("config/tables.yaml", lambda reports: reports["published"].update(tiny=_table()))
    with open(project / "config/published.tsv", "a", encoding="utf-8") as file:
        for method, value in printed.items():
            file.write(f"tiny\ttiny_3\tC\t{method}\t{method.capitalize()}\taverage\t{value:.1f}\tmade here\t\n")
    return project


def _assets() -> dict[str, dict[str, Any]]:
    """Return the assets of the small experiment, in the style of those of the papers."""
    hub = {"kind": "hub", "licence": "none", "source": "made here"}
    weights = ["config.json", "pytorch_model.bin", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"]
    slugs = {task: task for task in TASKS}
    parquet = ["README.md", "*train-*.parquet", "*test-*.parquet"]
    return {
        "clip_tiny": {**hub, "repo": "tiny/clip", "members": weights},
        "clip_tiny_{}": {**hub, "repo": "tiny/clip_{}", "each": slugs, "members": ["config.json", "model.safetensors"]},
        "open_clip_tiny": {**hub, "repo": "tiny/open_clip", "members": ["open_clip_config.json", "open_clip_model.safetensors"]},
        "tall_masks_tiny_{}": {**hub, "repo": "tiny/tall_masks", "each": TASKS, "root": "single_task/ViT-T-16/{}Val",
                               "members": ["nonlinear_finetuned.pt"]},
        "task_vectors_tiny_{}": {**hub, "kind": "path", "path": "checkpoints/task_vectors/{}/finetuned.pt", "each": TASKS,
                                 "unpack": False},
        **{f"data_{task}": {**hub, "type": "dataset", "repo": f"tiny/{task}", "members": parquet} for task in TASKS},
        "data_scans": {**hub, "type": "dataset", "repo": "tiny/scans",
                       "members": ["README.md", "train/*", "test/*", "classnames.txt"]},
    }  # fmt: skip


def _task(name: str, task: Task) -> dict[str, Any]:
    columns = {"image": task.suffix, "label": "cls"} if name == "scans" else {"image": "image", "label": "label"}
    counts = {split: len(task.labels[split]) for split in ("test", "train")}
    return {
        "label": TASKS[name], "reader": "hub_images.table", "assets": [f"data_{name}"], "class_names": name,
        "arguments": {**columns, "origin": {"test": "test", "train": "train", "validation": "train"}, "counts": counts},
        "splits": {"train": 256, "validation": 60, "test": 1_000_000}, "licence": "none", "source": "made here",
    }  # fmt: skip


def _table() -> dict[str, Any]:
    return {
        "title": "A printed table", "suites": {"tiny_3": "Tiny CLIP"}, "tasks": TASKS,
        "collections": {"A": "pickles", "B": "state dicts", "C": "as printed"},
        "tolerance": {"average": 0.2, "task": 0.5}, "notes": {},
    }  # fmt: skip


def lock(project: Project, hub: str, *assets: str) -> Done:
    """Lock the assets of the small experiment with the project's command."""
    path = os.pathsep.join([str(project / "workflow"), str(project / ".")])
    wanted = assets or [name.replace("{}", key) for name, spec in _assets().items() for key in spec.get("each", [""])]
    done = subprocess.run([sys.executable, "-m", "scripts.update_lock", *wanted], cwd=project.folder, text=True, check=False,
                          env=project.environment(PYTHONPATH=path, HF_ENDPOINT=hub, HF_TOKEN=TOKEN),
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    return Done(done.returncode, done.stdout)
