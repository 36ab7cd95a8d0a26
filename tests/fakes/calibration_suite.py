"""Tiny text encoders and CLIPs with tasks, and the command lines of the scripts that need a forward pass."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tiny
import tiny_clips
import torch
from torch.nn.functional import normalize

from nan_merge.calibration.adamerging import DifferentiableMerge
from nan_merge.checkpoints.checkpoint import write_checkpoint, write_tensors
from nan_merge.data.dataset import write_dataset
from nan_merge.engine import measure
from nan_merge.engine.request import Contexts
from nan_merge.layouts.unify import Models, unify_layout
from nan_merge.methods.recipe import bind
from nan_merge.models import training
from nan_merge.models.families import text_encoder
from nan_merge.models.training import Task
from scripts import collect_calibration, collect_jointly, finetune_joint, learn_coefficients

WIDTH, VOCABULARY = 8, 30
CONFIG = {**tiny.BERT, "hidden_size": WIDTH, "intermediate_size": 12, "max_position_embeddings": 10, "vocab_size": VOCABULARY}
EXPERTS = ("one", "two", "three")
EXCLUDE = [r"^embeddings\."]
TUNING = {"learning_rate": 0.01, "steps": 30, "batch_size": 8, "logit_scale": 10.0, "weight_decay": 0.0, "frozen": EXCLUDE}
PLUS = {"preprocess": {"trim": {"density": 0.3}}, "combine": {"disjoint_sum": {"elect": "unweighted"}}}
SCRIPTS = {
    "fisher": collect_calibration,
    "gram": collect_calibration,
    "gram_plus": collect_jointly,
    "learned": learn_coefficients,
    "joint": finetune_joint,
}


def random_task(seed: int, count: int = 24, classes: int = 3) -> Task:
    """Draw texts of different lengths whose first word tells the class, and a head."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, count)
    inputs = draw.integers(8, VOCABULARY, (count, 9)).astype(np.uint16)
    inputs[:, 0] = 1 + labels
    for row, length in zip(inputs, draw.integers(2, 9, count), strict=True):
        row[length:] = 0
    return Task(inputs, labels, normalize(torch.from_numpy(draw.normal(size=(classes, WIDTH))), dim=1).float().numpy(), 10.0)


def build_suite(root: Path) -> Path:
    """Write a base, three experts, their data sets and heads into a folder."""
    write_checkpoint(root / "base", tiny.random_bert(CONFIG, 0), CONFIG)
    for t, name in enumerate(EXPERTS):
        task = random_task(t)
        record = {"classes": ["a", "b", "c"]}
        write_dataset(root / "data" / name, record, {part: (task.inputs, task.labels) for part in ("train", "test")})
        write_tensors(root / f"{name}.safetensors", {"head": task.head})
        encoder = text_encoder.load(root / "base")
        training.finetune(encoder, task.inputs, task.labels, task.head, TUNING, seed=t)
        write_checkpoint(root / name, {k: v.numpy() for k, v in encoder.state_dict().items()}, CONFIG)
    return root


def aligned(suite: Path) -> Models:
    """Return base and experts in one layout."""
    return unify_layout(suite / "base", {name: suite / name for name in EXPERTS}, EXCLUDE)


def opened(suite: Path, method_spec: Mapping, dtype: torch.dtype = torch.float32) -> tuple[DifferentiableMerge, Mapping]:
    """Return the differentiable merge of a method, and its thresholds."""
    models, recipe = aligned(suite), bind(method_spec)
    cuts = measure.thresholds(models, **recipe.requirements["thresholds"]) if "thresholds" in recipe.requirements else {}
    return DifferentiableMerge(recipe, Contexts(models, cuts), dtype), cuts


def arguments(suite: Path, script: str, output: Path) -> list[str]:
    """Return the command line of a script, its name first."""
    data, heads = ([str(suite / place.format(name)) for name in EXPERTS] for place in ("data/{}", "{}.safetensors"))
    base = ["--base", str(suite / "base")]
    experts = ["--experts", *(f"{name}={suite / name}" for name in EXPERTS)]
    one = ["--checkpoint", str(suite / "one"), "--dataset", data[0], "--head", heads[0], "--logit-scale", "10"]
    several = ["--datasets", *data, "--heads", *heads]
    layout = {"exclude": EXCLUDE}
    small = ["--spec", json.dumps({"settings": {"examples": 10, "batch_size": 4}, "layout": layout})]
    learned = {"method_spec": {}, "settings": {"steps": 3, "batch_size": 4}, "layout": layout}
    of_script = {
        "fisher": ["collect_calibration", "--kind", "fisher", *one, *small],
        "gram": ["collect_calibration", "--kind", "gram", *one, *small],
        "gram_plus": ["collect_jointly", "--kind", "gram_plus", *base, *experts, *small,
                      "--datasets", *(f"{name}={folder}" for name, folder in zip(EXPERTS, data, strict=True))],
        "learned": ["learn_coefficients", *base, *experts, *several, "--logit-scale", "10",
                    "--suite", "s", "--method", "m", "--seed", "0", "--spec", json.dumps(learned)],
        "joint": ["finetune_joint", *base, *several, "--spec", json.dumps({"settings": {**TUNING, "steps": 2}}), "--seed", "0"],
    }  # fmt: skip
    return [*of_script[script], "--family", "text_encoder", "--output", str(output)]


def contents(output: Path) -> dict[str, bytes]:
    """Return the bytes of all files of an output by name."""
    files = sorted(output.rglob("*")) if output.is_dir() else [output]
    return {str(file.relative_to(output)): file.read_bytes() for file in files if file.is_file()}


def clip_models(world: Path, kind: str) -> Models:
    """Return base and experts of a world of tiny CLIPs, of one library, in one layout."""
    return unify_layout(world / kind / "base", {name: world / kind / name for name in tiny_clips.EXPERTS})


def clip_tasks() -> list[Task]:
    """Return two tasks of cuts of a photograph."""
    images = tiny_clips.photographs(24)
    draw = torch.Generator().manual_seed(0)
    heads = [normalize(torch.randn(3, tiny_clips.WIDTH, generator=draw), dim=1).numpy() for _ in tiny_clips.EXPERTS]
    return [Task(images[t * 12 :][:12], np.arange(12) % 3, head, 20.0) for t, head in enumerate(heads)]
