"""Merge the same models with a peer, in its own environment, and with this project; both in float32 and in float64."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.cases import ROOT
from benchmarks.parity.models import Family, Tensors, read
from nan_merge.catalogue.methods import STAGES, Catalogue
from nan_merge.checkpoints.checkpoint import Checkpoint
from nan_merge.core.errors import UserError
from nan_merge.engine import measure
from nan_merge.engine.merge import merge
from nan_merge.engine.request import Contexts, MergeRequest
from nan_merge.engine.spaces import thresholds
from nan_merge.layouts.unify import Models, unify_layout
from nan_merge.methods.coefficients import CoefficientTable
from nan_merge.methods.context import TensorContext
from nan_merge.methods.recipe import Recipe, bind
from nan_merge.standalone.method import assignment, override

PRECISIONS: dict[str, np.dtype[Any]] = {"float32": np.dtype(np.float32), "float64": np.dtype(np.float64)}
VARIABLES = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}  # no network; matrices are small


@dataclass(frozen=True)
class Comparison:
    """One method of a peer and its counterpart here.

    Attributes:
        ours: method of the catalogue; `change` are its `--set` options.
        note: the condition of agreement, or the reason for a difference.
        settings: of the peer: of its class (FusionBench) or its `parameters` (mergekit).
        each: mergekit's parameters of every model.
        base: mergekit's `base_model`: the base, the first expert, or none.
        shared: size of the noise that all experts share, in units of their own.
        learn: settings of AdaMerging here, and whether the entropies of the tasks are `added`.
        turn: pattern of matrices that the peer gets as (out, in).
        draw: whether random draws are those of `parity.draws` in both.
        apart: pattern of tensors that are not compared.
        within: largest error in float64 that counts as agreement, in units of the largest entry of a task vector; None
            where the programs differ on purpose.
    """

    peer: str
    method: str
    ours: str
    note: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    each: Mapping[str, Any] = field(default_factory=dict)
    change: Sequence[str] = ()
    families: Sequence[str] = ("CLIP", "GPT-2", "LLaMA")
    experts: int = 3
    shared: float = 0.5
    base: str | None = "base"
    calibration: str = ""
    learn: Mapping[str, Any] = field(default_factory=dict)
    turn: str = ""
    draw: bool = False
    apart: str = ""
    within: float | None = 1e-9

    @property
    def record(self) -> dict[str, Any]:
        """The fields of a row of the table."""
        return asdict(self)

    def method_spec(self) -> dict[str, Any]:
        """Return our method with its changes."""
        entry = Catalogue(ROOT).entry(self.ours)
        method_spec = {stage: entry[stage] for stage in STAGES if stage in entry}
        for change in self.change:
            method_spec = override(method_spec, *assignment(change), self.ours)
        return method_spec


def fusionbench_job(compared: Comparison, family: Family, precision: str, output: Path) -> dict[str, Any]:
    """Return a job for `peer_fusionbench.py`."""
    return {
        "method": compared.method,
        "settings": compared.settings,
        "base": str(family.base),
        "experts": list(map(str, family.experts)),
        "calibration": list(map(str, family.calibration(compared.calibration))) if compared.calibration else [],
        "turn": compared.turn,
        "draw": compared.draw,
        "double": precision == "float64",
        "output": str(output),
    }


def mergekit_job(compared: Comparison, family: Family, precision: str, output: Path) -> dict[str, Any]:
    """Return a job for `peer_mergekit.py`."""
    experts = family.experts[: compared.experts]
    models = [{"model": str(expert), "parameters": dict(compared.each)} for expert in experts]
    base = {"base": family.base, "first": experts[0], None: None}[compared.base]
    config = {"merge_method": compared.method, "models": models, "parameters": dict(compared.settings), "dtype": precision}
    return {"config": config | ({"base_model": str(base)} if base else {}), "output": str(output), "draw": compared.draw}


JOBS = {"fusion-bench": fusionbench_job, "mergekit": mergekit_job}
SCRIPTS = {"fusion-bench": "peer_fusionbench.py", "mergekit": "peer_mergekit.py"}


def peers(python: Path, peer: str, work: Sequence[tuple[Comparison, Family]], folder: Path) -> list[dict[str, Tensors]]:
    """Run all comparisons of one peer in one process of its Python; return by precision the tensors of each merge."""
    folder.mkdir(parents=True)
    places = [{precision: folder / f"{number}-{precision}" for precision in PRECISIONS} for number in range(len(work))]
    jobs = [JOBS[peer](*each, p, place[p]) for each, place in zip(work, places, strict=True) for p in PRECISIONS]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    command = [str(python), str(Path(__file__).with_name(SCRIPTS[peer])), str(folder / "jobs.json")]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **VARIABLES}, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{peer} failed: {done.stderr.strip().splitlines()[-1] if done.stderr else done.returncode}")
    return [{precision: read(found) for precision, found in place.items()} for place in places]


def ours(compared: Comparison, family: Family, folder: Path) -> dict[str, Tensors]:
    """Merge with this project's engine; return by precision of the output the tensors of the merge."""
    names = [f"expert_{t}" for t in range(compared.experts)]
    models = unify_layout(family.base, dict(zip(names, family.experts, strict=False)))
    recipe = bind(compared.method_spec(), compared.ours)
    cuts = thresholds(models, **recipe.requirements["thresholds"]) if "thresholds" in recipe.requirements else {}
    files = family.calibration(compared.calibration) if compared.calibration else []
    calibration = {name: Checkpoint(file) for name, file in zip(names, files, strict=False)}
    measures = measure.norms(models)
    for name, sums in measures["tensors"].items():
        sums["calibration"] = [
            float((e.read(name).astype(np.float64) ** 2).sum()) for e in calibration.values() if name in e.entries
        ]
    table = recipe.estimate(measures)
    merged = {}
    for precision, dtype in PRECISIONS.items():
        if compared.learn:
            table = learned(models, recipe, cuts, precision, compared.learn)
        with mock.patch.object(TensorContext, "key", lambda context, draw=0: 0) if compared.draw else contextlib.nullcontext():
            merge(MergeRequest(models, recipe, table, cuts, calibration, dtype=dtype), folder / precision)
        merged[precision] = read(folder / precision)
    return merged


def learned(
    models: Models, recipe: Recipe, cuts: Mapping[str, Any], precision: str, settings: Mapping[str, Any]
) -> CoefficientTable:
    """Return the coefficients that AdaMerging learns on the encoder and the tasks of `parity.encoder`."""
    import torch

    from benchmarks.parity import encoder
    from nan_merge.calibration import adamerging
    from nan_merge.models.training import Task

    kind = {"float32": torch.float32, "float64": torch.float64}[precision]
    base = {name: torch.from_numpy(models.base.read(name)).to(kind) for name in models.base.names}
    network = encoder.load(models.base.folder, base)
    shape: Any = network.config
    drawn = [encoder.task(t, shape.image_size, shape.hidden_size) for t in range(len(models.experts))]
    labels = np.zeros(encoder.EXAMPLES, np.int64)
    tasks = [Task(images, labels, head.astype(PRECISIONS[precision]), encoder.SCALE) for images, head in drawn]
    settings = {"batch_size": encoder.EXAMPLES, **settings}
    merge = adamerging.DifferentiableMerge(recipe, Contexts(models, cuts), kind)
    return adamerging.learn(network, merge, tasks, 0, **settings).table


def distance(found: Tensors, expected: Tensors, apart: str = "") -> float:
    """Return the largest difference of two models in any number; other names or shapes are a UserError.

    Tensors whose name `apart` matches do not count. NaN counts as infinitely far.
    """
    shapes = [{name: tensor.shape for name, tensor in each.items()} for each in (found, expected)]
    if shapes[0] != shapes[1]:
        names = sorted(name for name in {*shapes[0], *shapes[1]} if shapes[0].get(name) != shapes[1].get(name))
        raise UserError(f"{len(names)} tensors differ in name or shape between the two programs, such as '{names[0]}'")
    compared = [name for name in found if not (apart and re.search(apart, name))]
    return max(float(np.nan_to_num(np.abs(found[name] - expected[name]), nan=np.inf).max()) for name in compared)
