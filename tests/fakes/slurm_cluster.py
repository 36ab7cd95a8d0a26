"""A real SLURM on this machine, and runs of the tiny project on it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tiny
from project import LIMIT, SNAKEMAKE, Done, Project

SCRIPT = tiny.ROOT / "tests/slurm/cluster.sh"
# Looks after 1 s, 11 s more, 21 s more, and anew when a job has ended: short jobs need no more.
QUICK = ("--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "15")
NOT_INSTALLED = "SLURM is not installed; `SLURM=1 make test`, as root on Debian, installs it and runs these tests"
FAIL = "exit 1"
MEMORY = """exec "$PYTHON_OF_TESTS" -c "import time; held = b'1' * 2**30; time.sleep(100)" """
HANG = "exec sleep 1000"
METHODS = ("ties", "dare", "task_arithmetic+nan_delta")
MERGES = [f"results/merged/tiny/{method}/seed0" for method in METHODS]
MERGED = [f"merged/tiny/{method}/**/*" for method in METHODS]


def wait_until(sign: Callable[[], object], what: str) -> None:
    """Wait until `sign()` is true, and fail with the words when it does not become so."""
    end = time.monotonic() + LIMIT
    while not sign():
        assert time.monotonic() < end, f"waited {LIMIT} s for: {what}"
        time.sleep(0.2)


class Cluster:
    """slurmctld, slurmds and, with accounting `dbd`, slurmdbd and MariaDB, below one folder."""

    def __init__(self, folder: Path, accounting: str = "none") -> None:
        self.folder = folder
        port = 20000 + os.getpid() % 2000 * 10  # two test runs on one machine do not meet
        self.settings = {"CLUSTER_DIR": str(folder), "ACCOUNTING": accounting,
                         "BASE_PORT": str(port + 10000 * (accounting == "dbd"))}  # fmt: skip
        self.has_accounting = accounting == "dbd"

    def do(self, *words: str) -> str:
        """Run a command of cluster.sh: start, stop, kill-node, ..."""
        environment = {**os.environ, **self.settings}
        done = subprocess.run([SCRIPT, *words], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=LIMIT, check=False)  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    def ask(self, *words: str) -> str:
        """Run a client command of SLURM, as squeue."""
        return subprocess.run([self.folder / "bin" / words[0], *words[1:]], text=True, check=True, stdout=subprocess.PIPE).stdout

    def jobs(self, *states: str) -> list[str]:
        """Return the numbers of the jobs in the queue."""
        return self.ask("squeue", "-h", "-o", "%i", "-t", ",".join(states or ("PENDING", "RUNNING"))).split()

    def wait_until_idle(self) -> None:
        wait_until(lambda: not self.jobs("PENDING", "RUNNING", "COMPLETING"), "an empty queue")


def missing(accounting: str = "none") -> list[str]:
    """Return the programs of SLURM that this machine lacks."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    programs = ("slurmctld", "slurmd", "munged", *(("slurmdbd", "mariadbd") if accounting == "dbd" else ()))
    return [name for name in programs if not shutil.which(name, path=path)]


def install(accounting: str = "none") -> None:
    """Skip the test where SLURM is missing; with SLURM=1 in the environment install it first, as root on Debian."""
    wanted = missing(accounting)
    if not wanted:
        return
    if os.environ.get("SLURM") != "1":
        pytest.skip(NOT_INSTALLED)
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        pytest.skip(f"SLURM can be installed only as root on Debian; missing: {', '.join(wanted)}")
    done = subprocess.run([SCRIPT, "install"], env={**os.environ, "ACCOUNTING": accounting}, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=LIMIT, check=False)  # fmt: skip
    if done.returncode:
        pytest.skip(f"SLURM cannot be installed here: {done.stdout[-500:]}")


@contextmanager
def started(folder: Path, accounting: str = "none") -> Iterator[Cluster]:
    """A cluster for as long as the block lasts; the test is skipped where there can be none."""
    install(accounting)
    cluster = Cluster(folder, accounting)
    cluster.do("start")
    try:
        yield cluster
    finally:
        cluster.do("stop")


class OnCluster:
    """A project folder and a cluster, with the user's home in which `write_profile` put the profile."""

    def __init__(self, project: Project, cluster: Cluster) -> None:
        self.project, self.cluster = project, cluster
        self.watch = "sacct" if cluster.has_accounting else "squeue"
        self.faults = project / ".faults"
        (self.faults / "bin").mkdir(parents=True)
        (self.faults / "ran").touch()
        (self.faults / "bin/python").symlink_to(tiny.ROOT / "tests/slurm/python.sh")
        done = self.call(sys.executable, "-m", "scripts.write_profile")
        assert done.code == 0, done.text

    def environment(self) -> dict[str, str]:
        """The user's environment: the cluster's commands and the python that notes and breaks first on the path."""
        mine = self.project.environment()
        path = os.pathsep.join([str(self.faults / "bin"), str(self.cluster.folder / "bin"), mine["PATH"]])
        more = {"FAULTS": str(self.faults), "PYTHON_OF_TESTS": sys.executable, "XDG_CONFIG_HOME": str(self.project / ".home")}
        return {**mine, **more, "PATH": path}

    def fault(self, call: str, what: str) -> None:
        """Do `what` to the first job whose arguments contain `call`."""
        number = len(list(self.faults.glob("*fault*")))
        (self.faults / f"{number}.fault").write_text(f"{call}\n{what}\n")

    def ran(self, script: str = "") -> list[tuple[str, str, str]]:
        """Return node, GPUs and arguments of every call of a script of the workflow."""
        rows = [line.split("\t", 2) for line in (self.faults / "ran").read_text().splitlines()]
        return [(node, gpus, call) for node, gpus, call in rows if f"scripts.{script}" in call]

    def command(self, *arguments: str) -> list[str]:
        return [*SNAKEMAKE, "--profile", "slurm", *QUICK, "--slurm-status-command", self.watch, *arguments]

    def call(self, *words: str) -> Done:
        """Run a command in the project's folder and wait for it."""
        done = subprocess.run(words, cwd=self.project.folder, env=self.environment(), text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=LIMIT, check=False)  # fmt: skip
        return Done(done.returncode, done.stdout)

    def run(self, *arguments: str) -> Done:
        """Run what a user types, `snakemake --profile slurm`, with more frequent looks."""
        return self.call(*self.command(*arguments))

    def made(self, *arguments: str) -> Done:
        """Run and expect success."""
        done = self.run(*arguments)
        assert done.code == 0, done.text[-6000:]
        return done

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a run in the background; its messages go to run.log."""
        with open(self.project / "run.log", "w") as log:
            return subprocess.Popen(self.command(*arguments), cwd=self.project.folder, env=self.environment(), stdout=log,
                                    stderr=subprocess.STDOUT, start_new_session=True,
                                    preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # fmt: skip

    def log(self) -> str:
        return (self.project / "run.log").read_text()


def small_merges(profile: dict[str, Any], **more: object) -> None:
    """Change profiles/default: a merge asks for 800 MB, 5 minutes and one processor, more with every attempt."""
    profile["set-resources"] = {"merge_checkpoints": {"mem_mb": "attempt * 800", "runtime": "attempt * 5", **more}}
    profile["set-threads"] = {"merge_checkpoints": 1}


def merges(run: OnCluster) -> Counter[str]:
    """Return how often each method was merged."""
    return Counter(call.split("--output results/merged/tiny/")[1].split("/")[0] for _, _, call in run.ran("merge_checkpoints"))


def whole(run: OnCluster, finished: Project) -> None:
    """Say that all merges are there with the bytes of a local run, that nothing is left to do and nothing half done is left."""
    found, expected = run.project.digests(*MERGED), finished.digests(*MERGED)
    different = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    assert not different, f"missing or different: {different}"
    assert run.project.jobs(*MERGES) == set()
    assert run.project.leftovers() == []
