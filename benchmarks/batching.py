"""Compare ways to run many short jobs on SLURM: submissions, wall time, CPU time.

The tiny suite of the tests with more tasks, merged and scored by many methods, on the simulated cluster of tests/slurm: two
nodes of four CPUs on any machine. CPU seconds are of everything together: SLURM's daemons, Snakemake and the jobs
themselves.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import re
import resource
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/fakes"))

import tiny
from project import Project
from slurm_cluster import OnCluster, started

from benchmarks.cases import facts
from benchmarks.tables import grid, machine, save
from nan_merge.core.command_line import command_line

STAGES = ("estimate_coefficients", "merge_checkpoints", "evaluate_checkpoint")
LOOKS = ("--slurm-init-seconds-before-status-checks", "20")  # as the profile has it
CHAIN = ["--groups", *(f"{stage}=method" for stage in STAGES)]
WAYS = {  # the arguments of each way to submit
    "a job each": [],
    "a group a method": CHAIN,
    "groups of three methods": [*CHAIN, "--group-components", "method=3", "--cores", "1"],
    "an array a rule": ["--slurm-array-jobs", ",".join(STAGES)],
    "one allocation": [],
}


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, run every way once from the same state, and write the results."""
    parser = argparse.ArgumentParser("benchmarks.batching", description=__doc__)
    parser.add_argument("--methods", type=int, default=30)
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--folder", type=Path, help="where the runs are made (default: a temporary folder)")
    args = parser.parse_args(argv)
    start = facts(args.output)
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: what daemons leave behind comes to us, with its times
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        base = prepared(Path(folder) / "base", args.methods, args.tasks)
        rows = [measured(way, args.methods, base, Path(folder)) for way in args.ways]
    results: dict[str, Any] = {"facts": start, "methods": args.methods, "tasks": args.tasks, "rows": rows}
    save(args.output / "batching", results, table(results))


def table(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    heads = {"way": "way", "submissions": "submissions", "jobs": "jobs", "wall_seconds": "wall s", "cpu_seconds": "CPU s"}
    rows = [[str(row[key]) for key in heads] for row in results["rows"]]
    title = f"# {results['methods']} methods on {results['tasks']} tasks, merged and scored through SLURM"
    return "\n".join([title, "", machine(results["facts"]), "", *grid(list(heads.values()), rows)]) + "\n"


def prepared(folder: Path, methods: int, tasks: int) -> Project:
    """Build the tiny project with that many methods and tasks, and run it locally up to the measures."""
    project = Project(tiny.build(folder))
    names = [f"way_{i}" for i in range(methods)]
    known = tiny.read_yaml(project / "config/tasks.yaml")
    known |= {f"fruit_{i}": {**known["fruit"], "label": f"Fruit {i}"} for i in range(tasks - len(known))}
    tiny.write_yaml(project / "config/tasks.yaml", known)
    project.edit("config/suites/tiny.yaml", lambda suite: suite.update(tasks=list(known), groups={"all": list(known)}))
    config = {"suites": ["tiny"], "seeds": [0], "methods": names, "tables": [], "figures": []}
    tiny.write_yaml(project / "config/config.yaml", config)
    project.edit("config/methods.yaml", lambda m: m.update({n: own(m, i) for i, n in enumerate(names)}))
    project.made("results/measures/tiny/seed0.json", *(f"results/heads/tiny_bert/{task}.safetensors" for task in known))
    return project


def own(methods: dict[str, Any], number: int) -> dict[str, Any]:
    """Return a task arithmetic with a λ of its own."""
    given = {**methods["task_arithmetic"], "label": f"Task arithmetic {number}", "summary": f"number {number}"}
    return {**given, "coefficients": {"constant": {"value": 0.1 + number / 100}}}


def measured(way: str, methods: int, base: Project, folder: Path) -> dict[str, Any]:
    """Copy the project, run it in one way on a cluster of its own, and count."""
    name = way.replace(" ", "_")
    project = base.copy(folder / name)
    before = cpu()
    with started(folder / f"cluster_{name}") as cluster:
        run = OnCluster(project, cluster)
        targets = [f"results/scores/tiny/way_{i}/seed0/all.json" for i in range(methods)]
        start = time.monotonic()
        if way == "one allocation":
            inside = shlex.join([sys.executable, "-m", "snakemake", "--cores", "4", *targets])
            done = run.call("sbatch", "--wait", "--cpus-per-task", "4", "--mem", "6000", "--time", "120", "--wrap", inside)
        else:
            done = run.run(*LOOKS, *WAYS[way], "--", *targets, timeout=7200)
        wall = time.monotonic() - start
    submitted = (cluster.folder / "log/slurmctld.log").read_text().count("_slurm_rpc_submit_batch_job: JobId=")
    log = max(project.folder.glob(".snakemake/log/*.log")).read_text()
    return {"way": way, "exit": done.code, "submissions": submitted, "jobs": len(re.findall(r"^Finished jobid", log, re.M)),
            "wall_seconds": round(wall), "cpu_seconds": round(cpu() - before),
            "scores": sum((project / target).exists() for target in targets)}  # fmt: skip


def cpu() -> float:
    """Return the CPU seconds of all child processes that have ended; waits for those about to end."""
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                break
        except ChildProcessError:
            break
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    command_line(main)
