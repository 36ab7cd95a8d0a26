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

MERGES = """
import os, sys
from pathlib import Path
from nan_merge.engine import merge, measure, request; from nan_merge.layouts import unify
from nan_merge.core.atomic import exclusive
from nan_merge.methods.recipe import bind
folder = Path(sys.argv[1])
models = unify.unify_layout(folder / "base", {"a": folder / "a"})
norms = measure.norms(models)
for line in sys.stdin:
    value, times = map(int, line.split())
    child = os.fork()
    if child == 0:
        recipe = bind({"coefficients": {"constant": {"value": value}}})
        for _ in range(times):
            with exclusive(folder / "out", removable=lambda _: True):
                merge.merge(request.MergeRequest(models, recipe, recipe.estimate(norms)), folder / "out", threads=2)
        os._exit(0)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


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


@pytest.fixture
def start(models):
    """Return a function that starts a process that merges a number of times; the next call of `ended` is its exit status."""
    run, environment = [sys.executable, "-c", MERGES, str(models)], {**os.environ, "PYTHONPATH": str(ROOT / "workflow")}
    with subprocess.Popen(run, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:

        def started(value, times):
            print(value, times, file=parent.stdin, flush=True)
            return int(parent.stdout.readline()), lambda: int(parent.stdout.readline())

        yield started
        parent.stdin.close()


def test_a_merge_killed_at_any_moment_leaves_the_old_output_or_the_new_one(models, start):
    rng, whole = random.Random(0), {}
    for value in (0, 1):  # what the two outputs are when nobody is killed
        assert start(value, 1)[1]() == 0
        whole[value] = state(models / "out")
    seen = set()
    for attempt in range(24):
        process, ended = start(attempt % 2, 1000)
        time.sleep(rng.uniform(0, 0.1))
        os.kill(process, signal.SIGKILL)
        assert ended() == signal.SIGKILL
        assert state(models / "out") in whole.values()
        seen.add((attempt % 2, state(models / "out") == whole[attempt % 2]))
    assert {new for _, new in seen} == {True, False}, "some were killed before the change, some after"
    left = [path for path in models.iterdir() if path.name.startswith(".")]
    assert len(left) <= 1, "each run clears what the one before left"
    assert set(tensors_of(models / "out")) == set(tensors_of(models / "base"))
