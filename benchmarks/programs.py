"""Command lines of the compared programs for the models of a case."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cases import ROOT, Case
from benchmarks.harness import Measurement, measure
from benchmarks.shapes import Clip, Llama

ELEMENTWISE = {
    "task_arithmetic": "task_arithmetic",
    "nan": "task_arithmetic+nan_delta",
    "ties": "ties",
    "dare_ties": "dare_ties",
}
MATRIX = ("tsv_m", "ace", "actmat", "wudi_exact")  # their operations grow with the cube of a side of a matrix
OURS = {**ELEMENTWISE, **{method: method for method in MATRIX}}
SAME_AS = {"nan": "task_arithmetic"}  # no peer has NAN; it is held against the host that it weights
MERGEKIT = {
    "task_arithmetic": ("task_arithmetic", {"weight": 0.3}),
    "ties": ("ties", {"weight": 0.3, "density": 0.2}),
    "dare_ties": ("dare_ties", {"weight": 0.3, "density": 0.1}),
}
FUSIONBENCH: dict[type, tuple[str, ...]] = {Clip: ("task_arithmetic", "ties", "tsv_m"), Llama: ("tsv_m",)}
VARIABLES = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONPATH": str(ROOT / "workflow")}  # nobody asks the network


@dataclass(frozen=True)
class Program:
    """One way to merge: its name, its method, its command line for a case, and in how many rounds it runs."""

    name: str
    method: str
    command: Callable[[Case], Sequence[str]]
    rounds: int


def ours(method: str, rounds: int) -> Program:
    """Return this project's program."""

    def command(case: Case) -> list[str]:
        experts = [word for expert in case.experts for word in ("--expert", str(expert))]
        words = ["--base", str(case.base), *experts, "--method", OURS[method], "--output", str(case.output)]
        return [sys.executable, "-m", "nan_merge.cli", "merge", *words]

    return Program("ours", method, command, rounds)


def floor(rounds: int) -> Program:
    """Return the program that reads and writes the same bytes as a merge and computes nothing."""

    def command(case: Case) -> list[str]:
        return [sys.executable, str(ROOT / "benchmarks/floor.py"), str(case.output), *map(str, (case.base, *case.experts))]

    return Program("floor", "", command, rounds)


def mergekit(python: Path, method: str, rounds: int) -> Program:
    """Return mergekit with its defaults, by its command line."""

    def command(case: Case) -> list[str]:
        name, numbers = MERGEKIT[method]
        config = {
            "merge_method": name,
            "base_model": str(case.base),
            "models": [{"model": str(expert), "parameters": numbers} for expert in case.experts],
            "parameters": {"normalize": False},  # a sum, as in the other programs
            "dtype": "bfloat16",
        }
        file = case.folder / f"mergekit_{method}.yaml"
        file.write_text(json.dumps(config, indent=1))  # JSON is YAML
        return [str(python.parent / "mergekit-yaml"), str(file), str(case.output)]

    return Program("mergekit", method, command, rounds)


def fusionbench(python: Path, method: str, rounds: int) -> Program:
    """Return FusionBench on folders of models, by a short script of its own API."""

    def command(case: Case) -> list[str]:
        script = str(ROOT / "benchmarks/peer_fusionbench.py")
        return [str(python), script, method, str(case.output), *map(str, (case.base, *case.experts))]

    return Program("fusion-bench", method, command, rounds)


def programs(
    case: Case, methods: Sequence[str], rounds: int, peers: Mapping[str, Path], peer_rounds: Mapping[str, int]
) -> list[Program]:
    """Return everything that is run for a case: the floor, ours, and each peer that knows the method and the models.

    `peers` are the Python of each peer's environment, by package; `peer_rounds` the rounds they take part in, by method.
    """
    found = [floor(rounds), *(ours(method, rounds) for method in methods)]
    for method in dict.fromkeys(SAME_AS.get(method, method) for method in methods):
        often = min(rounds, peer_rounds.get(method, rounds))
        if "mergekit" in peers and isinstance(case.model, Llama) and method in MERGEKIT:
            found.append(mergekit(peers["mergekit"], method, often))
        if "fusion-bench" in peers and method in FUSIONBENCH[type(case.model)]:
            found.append(fusionbench(peers["fusion-bench"], method, often))
    order = list(dict.fromkeys(program.method for program in found))  # a peer beside ours
    return sorted((program for program in found if program.rounds), key=lambda program: order.index(program.method))


def run(program: Program, case: Case, **how: Any) -> Measurement:
    """Measure one program on a case; the end of its output is kept without folders of this machine."""
    found = measure(program.command(case), case.output, folder=ROOT, variables=VARIABLES, **how)
    return dataclasses.replace(found, outcome=hidden(found.outcome, case))


def hidden(text: str, case: Case) -> str:
    """Replace the folders of the models and of the checkout."""
    return text.replace(str(case.folder), "MODELS").replace(f"{ROOT}/", "")
