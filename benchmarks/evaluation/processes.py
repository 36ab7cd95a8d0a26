"""The compared programs, as whole processes on the same model and pictures."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.cases import ROOT
from benchmarks.evaluation import models, pictures
from benchmarks.evaluation.table import PEER
from benchmarks.harness import measure, turn, warm
from nan_merge.core.errors import UserError

TASK = "dtd"  # whose class names and templates are taken: 47 classes, 8 templates


@dataclass(frozen=True)
class Bench:
    """A folder with one model, and as many data sets as numbers of images; `threads` are those of every program."""

    folder: Path
    threads: int = 1
    batch: int = 64
    fusionbench: Path | None = None

    @property
    def base(self) -> Path:
        """The whole CLIP, as on the hub."""
        return self.folder / "base"

    @property
    def model(self) -> Path:
        """The image encoder that every program evaluates."""
        return self.folder / "model"

    @property
    def head(self) -> Path:
        """Our head of the task."""
        return self.folder / f"{TASK}.safetensors"

    def data(self, images: int) -> Path:
        """Return the folder of our prepared data set."""
        return self.folder / f"prepared-{images}" / TASK

    def shard(self, images: int) -> Path:
        """Return the folder of the data set as on the hub."""
        return self.folder / f"pictures-{images}"

    @functools.cached_property
    def names(self) -> dict[str, Any]:
        """The class names and templates of the task."""
        found: dict[str, Any] = yaml.safe_load((ROOT / f"config/class_names/{TASK}.yaml").read_text(encoding="utf-8"))
        return found

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables of every process: no network, the same threads."""
        offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HOME": str(self.folder / "cache")}
        return {**offline, "OMP_NUM_THREADS": str(self.threads), "TQDM_MININTERVAL": "60"}

    def command(self, *words: Any) -> list[str]:
        """Return a command line that runs on as many processors as there are threads: the last ones."""
        cores = sorted(os.sched_getaffinity(0))
        pinned = ["taskset", "-c", ",".join(map(str, cores[-self.threads :]))] if self.threads < len(cores) else []
        return [*pinned, *map(str, words)]

    def ours(self, precision: str, images: int) -> list[str]:
        """Return the command line of this project."""
        inputs = ["--checkpoints", self.model, "--datasets", self.data(images), "--heads", self.head]
        how = ["--precision", precision, "--batch-size", self.batch, "--threads", self.threads]
        names = ["--suite", "bench", "--method", "merged", "--seed", 0]
        outputs = ["--scores", self.folder / "out/scores.json", "--predictions", self.folder / "out/predictions.npz"]
        script = [sys.executable, "-m", "scripts.evaluate_checkpoint", "--family", "clip"]
        return self.command(*script, *inputs, *how, *names, *outputs)

    def peer(self, images: int) -> list[str]:
        """Return the command line of FusionBench."""
        file = next(self.shard(images).rglob("*.parquet"))
        script = [self.fusionbench, ROOT / "benchmarks/evaluation/peer_fusionbench.py"]
        return self.command(*script, self.model, self.base, file, TASK, self.folder / "out")

    def hidden(self, text: str) -> str:
        """Replace the folders of this machine in a command line."""
        places = {self.folder: "FOLDER", f"{ROOT}/": "", self.fusionbench: "python", sys.executable: "python"}
        for place, name in places.items():
            text = text.replace(str(place), name) if place else text
        return text

    def programs(self, precisions: Sequence[str], images: int) -> dict[str, list[str]]:
        """Return the command line of every program, by its name."""
        found = {precision: self.ours(precision, images) for precision in precisions}
        return found | ({PEER: self.peer(images)} if self.fusionbench else {})


def make(bench: Bench, size: str, counts: Sequence[int]) -> dict[str, Any]:
    """Make the model and the pictures, prepare both with this project, and return the measurements of each preparation."""
    models.make(bench.base, size)
    side = models.side(bench.base)
    spec = json.dumps({"classes": bench.names["classes"], "templates": bench.names["prompt"]})
    script = [sys.executable, "-m"]
    prepare = [*script, "scripts.prepare_checkpoint", "--family", "clip", "--source", bench.base, "--output", bench.model]
    head = ["scripts.build_head", "--family", "clip", "--spec", spec, "--text-tower", bench.base, "--output", bench.head]
    taken = {"model": once(bench, prepare), "head": once(bench, [*script, *head])}
    for count in counts:
        pictures.make(bench.shard(count), count, bench.names["classes"])
        task = {
            "id": TASK, "label": TASK, "reader": "hub_images.table", "assets": [bench.shard(count).name],
            "classes": bench.names["classes"], "arguments": {"origin": {"test": "test"}}, "splits": {"test": count},
        }  # fmt: skip
        words: list[Any] = ["scripts.prepare_dataset", "--spec", json.dumps({"task": task, "input": {"side": side}})]
        words += ["--assets", bench.shard(count), "--processes", bench.threads, "--output", bench.data(count)]
        taken[f"{count} images"] = once(bench, [*script, *words])
    return taken


def once(bench: Bench, words: Sequence[Any]) -> dict[str, Any]:
    """Measure a step that is done once; raises UserError if it fails."""
    found = measure(bench.command(*words), bench.folder / "out", folder=ROOT, variables=bench.variables)
    if found.outcome != "ok":
        raise UserError(f"{words[2]}: {found.outcome}; see {bench.folder / 'out.log'}")
    return dataclasses.asdict(found)


def predictions(bench: Bench, program: str, command: Sequence[str]) -> np.ndarray:
    """Run a program off the clock, so that its libraries are in the page cache, and return its predictions."""
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **bench.variables}, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{program}: {done.stderr.strip().splitlines()[-1]}")
    try:
        if program == PEER:
            return np.array(json.loads((bench.folder / "out/predictions.json").read_text()))
        with np.load(bench.folder / "out/predictions.npz") as found:
            return np.asarray(found[f"{TASK}.prediction"])
    finally:
        for file in (bench.folder / "out").iterdir():
            file.unlink()
        (bench.folder / "out").rmdir()


def study(bench: Bench, precisions: Sequence[str], images: int, rounds: int, limit: float) -> Iterator[dict[str, Any]]:
    """Run all programs in turn, in another order each round, and return all measurements."""
    files = [
        *bench.base.iterdir(),
        *bench.model.iterdir(),
        *bench.data(images).iterdir(),
        *bench.shard(images).rglob("*.parquet"),
    ]
    commands = bench.programs(precisions, images)
    for number in range(rounds):
        for program in turn(list(commands), number):
            warm(files)
            found = measure(commands[program], bench.folder / "out", folder=ROOT, variables=bench.variables, limit=limit)
            print(f"round {number + 1}: {images} images, {program}: {found.outcome}, {found.seconds:.1f} s", flush=True)
            parts = _parts(bench.folder / "out.log") if program == PEER else {}
            yield {"round": number + 1, "program": program, "images": images, **dataclasses.asdict(found), "parts": parts}


def _parts(log: Path) -> dict[str, float]:
    """Return the times that FusionBench prints of its parts."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.startswith('{"imports"')]
    return json.loads(lines[-1]) if lines else {}
