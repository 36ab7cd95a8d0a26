"""Run a project folder the way a user does, and read what it did."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiny

from nan_merge.models.harness.tasks import OFFLINE

SNAKEMAKE = [sys.executable, "-m", "snakemake"]
TWO_CORES = str(Path(__file__).parent / "two_cores")
LIMIT = 3600  # seconds that any command of a test may take: against hanging, not a measure of speed


@dataclass(frozen=True)
class Done:
    """How a command ended: its exit code and what it said (both streams in one)."""

    code: int
    text: str


class Project:
    """A folder with Snakefile, config and, after a run, results."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def copy(self, target: Path) -> Project:
        """Copy everything with its times, as `cp -a` and an archive do."""
        subprocess.run(["cp", "-a", str(self.folder), str(target)], check=True)
        return Project(target)

    def run(self, *arguments: str, before: tuple[str, ...] = (), **environment: str) -> Done:
        """Run snakemake with the given arguments, `before` standing in front of the command, on two cores by a profile."""
        environment = {"SNAKEMAKE_PROFILE": TWO_CORES, **environment}
        done = subprocess.run(
            [*before, *SNAKEMAKE, "--nolock", *arguments], cwd=self.folder, env=self.environment(**environment),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LIMIT, check=False,
        )  # fmt: skip
        return Done(done.returncode, done.stdout)

    def environment(self, **more: str) -> dict[str, str]:
        """A user's environment: this Python first on the path, nothing of the checkout under test."""
        make = ("MAKELEVEL", "MAKEFLAGS", "MFLAGS")
        outer = ("PYTHONPATH", "OMP_NUM_THREADS", "SNAKEMAKE_PROFILE", *make, *OFFLINE)  # of the tests
        mine = {k: v for k, v in os.environ.items() if k not in outer}
        path = os.pathsep.join([str(Path(sys.executable).parent), mine["PATH"]])
        return {**mine, "PATH": path, "XDG_CACHE_HOME": str(self.folder / ".cache"), **more}

    def shell(self, command: str, **environment: str) -> Done:
        """Run a line as a user types it in the folder, after `source .venv/bin/activate`, adding nothing to it."""
        done = subprocess.run(
            ["bash", "-ec", command], cwd=self.folder, env=self.environment(**environment), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LIMIT, check=False,
        )  # fmt: skip
        return Done(done.returncode, done.stdout)

    def made(self, *targets: str) -> Done:
        """Run and expect success."""
        done = self.run(*targets)
        assert done.code == 0, done.text[-6000:]
        return done

    def jobs(self, *targets: str) -> set[str]:
        """Return the jobs that a run would do now, by their messages, as `rule: wildcards`."""
        done = self.run("--dry-run", *targets)
        assert done.code == 0, done.text[-6000:]
        found = re.findall(r"^Job \d+: (.+)$", done.text, flags=re.MULTILINE)
        assert len(found) == len(set(found)), "two jobs with the same message"
        assert found or "Nothing to be done" in done.text, done.text[-3000:]
        return set(found)

    def edit(self, name: str, change: Callable[[Any], Any]) -> None:
        """Change one YAML file of the config."""
        tiny.edit_yaml(self.folder / name, change)

    def replace(self, name: str, old: str, new: str) -> None:
        """Replace a text that stands in a file exactly once."""
        file = self.folder / name
        text = file.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{name} holds {old!r} {text.count(old)} times"
        file.write_text(text.replace(old, new), encoding="utf-8")

    def remove(self, *names: str) -> None:
        """Delete files or folders of the project."""
        for name in names:
            path = self.folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def digests(self, *patterns: str) -> dict[str, str]:
        """Return the SHA-256 of all files below `results/` that match one of the patterns."""
        results = self.folder / "results"
        files = {file for pattern in patterns for file in results.glob(pattern) if file.is_file()}
        found = {str(f.relative_to(results)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
        return {name: digest for name, digest in found.items() if ".snakemake_timestamp" not in name}

    def leftovers(self) -> list[str]:
        """Return the temporary files and folders that a killed process left behind."""
        return sorted(str(path.relative_to(self.folder)) for path in (self.folder / "results").rglob(".*.part"))


def package(folder: Path, name: str, version: str) -> str:
    """Install a package without modules below a folder, and return its place for PYTHONPATH."""
    place = folder / name / f"{name}-{version}.dist-info"
    place.mkdir(parents=True)
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return str(place.parent)


def make_command() -> list[str]:
    """Return the command behind `make demo`, read from the Makefile: a kernel lock and snakemake."""
    line = re.search(r"^RUN := (.+)$", (tiny.ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert line, "the Makefile has no RUN"
    return [word for word in shlex.split(line[1]) if not word.startswith("PATH=")]


def make(project: Project, *targets: str) -> Done:
    """Run what `make demo` runs and wait for it."""
    done = subprocess.run([*make_command(), "--", *targets], cwd=project.folder, env=project.environment(), text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=LIMIT, check=False)  # fmt: skip
    return Done(done.returncode, done.stdout)


STAMPS = (".installed", ".language")  # of the Makefile


def checkout(folder: Path, assets: Path = tiny.ROOT / "results/assets") -> Project:
    """A fresh copy of the checkout, with those assets of an earlier run that are the locked ones."""
    project = Project(tiny.copy_code(folder))
    lock = json.loads((project / "config/assets.lock.json").read_text())
    for asset in sorted(assets.glob("*")):
        if is_locked(asset, lock):
            shutil.copytree(asset, project / f"results/assets/{asset.name}")
    return project


def installed(project: Project) -> Project:
    """Add what `make` needs: the Makefile and this Python's packages as `.venv`, which nothing can change from there."""
    for name in ("Makefile", "requirements.txt", "requirements-language.txt", "pyproject.toml"):
        shutil.copy2(tiny.ROOT / name, project / name)
    environment = Path(sys.prefix)
    (project / ".venv/bin").mkdir(parents=True)
    for program in (environment / "bin").iterdir():
        if program.name not in STAMPS:
            (project / ".venv/bin" / program.name).symlink_to(program)
    (project / ".venv/lib").symlink_to(environment / "lib")
    (project / ".venv/pyvenv.cfg").symlink_to(environment / "pyvenv.cfg")
    for name in STAMPS:
        (project / ".venv/bin" / name).touch()
    return project


def is_locked(folder: Path, lock: dict[str, Any]) -> bool:
    """Say whether a fetched asset is the locked one: the same archive, every member there in its size."""
    if not (folder / "asset.json").exists():
        return False
    record = json.loads((folder / "asset.json").read_text())
    members = {name: folder / name for name in record["files"]}
    whole = all(p.is_file() and p.stat().st_size == record["files"][n]["size"] for n, p in members.items())
    return whole and record["archive"] == lock.get(folder.name)


def mounted(isolated: Callable[..., tuple[str, ...]], mount: str) -> tuple[str, ...]:
    """Return the words that run a command after a mount that only this command sees."""
    return (*isolated("--mount"), "sh", "-c", f'{mount} && exec "$@"', "sh")


# What must be equal between two runs of the same config: everything but logs, times and the report of the machine.
RESULTS = ("checkpoints/**/*", "datasets/**/*", "data_checks/**/*", "heads/**/*", "measures/**/*", "coefficients/**/*",
           "selected/**/*", "merged/**/*", "digests/**/*", "scores/**/*", "validation/**/*", "examples/*", "premise/**/*",
           "tables/*", "figures/*", "*.tsv", "claims.*", "report.html", "run_config.yaml")  # fmt: skip
