"""A merge that is killed at any moment leaves the old output or the new one, and the next one clears what it left."""

import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from models import ROOT, save, tensors_of

from nan_merge.core.files import sha256

MERGE = """
import sys, time
from pathlib import Path
from nan_merge.engine import merge, measure, request; from nan_merge.layouts import unify
from nan_merge.methods.recipe import bind
folder, value = Path(sys.argv[1]), float(sys.argv[2])
recipe = bind({"coefficients": {"constant": {"value": value}}})
models = unify.unify_layout(folder / "base", {"a": folder / "a"})
table = recipe.estimate(measure.norms(models))
print("ready", flush=True)
for _ in range(int(sys.argv[3])):
    merge.merge(request.MergeRequest(models, recipe, table), folder / "out", threads=2)
"""


def merge(folder, value, times=1000):
    """Start a process that merges again and again, and wait until it does."""
    run = [sys.executable, "-c", MERGE, str(folder), str(value), str(times)]
    process = subprocess.Popen(run, env={**os.environ, "PYTHONPATH": str(ROOT / "workflow")}, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    return process


def state(folder):
    return {file.name: sha256(file) for file in sorted(folder.iterdir())} if folder.exists() else {}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    rng = np.random.default_rng(0)
    base = {f"layers.{i}.weight": rng.standard_normal((1000, 700), np.float32) for i in range(3)}
    save(folder / "base", base, shards=2)
    save(folder / "a", {name: tensor + np.float32(0.1) for name, tensor in base.items()})
    return folder


def test_a_merge_killed_at_any_moment_leaves_the_old_output_or_the_new_one(models):
    rng, whole = random.Random(0), {}
    for value in (0.0, 1.0):  # what the two outputs are when nobody is killed
        assert merge(models, value, times=1).wait() == 0
        whole[value] = state(models / "out")
    seen = set()
    for attempt in range(24):
        process = merge(models, attempt % 2)
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert state(models / "out") in whole.values()
        seen.add((attempt % 2, state(models / "out") == whole[attempt % 2]))
    assert {new for _, new in seen} == {True, False}, "some were killed before the change, some after"
    left = [path for path in models.iterdir() if path.name.startswith(".")]
    assert len(left) <= 1, "each run clears what the one before left"
    assert set(tensors_of(models / "out")) == set(tensors_of(models / "base"))
