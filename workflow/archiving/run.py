"""A run of the workflow as Snakemake sees it: its jobs, done or not, their files, and its records of them."""

from __future__ import annotations

import base64
import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from nan_merge.catalogue.files import read_yaml
from nan_merge.core.errors import UserError
from nan_merge.core.files import read_json
from planning.jobs import PlannedJob, planned_jobs

CONFIG = "results/run_config.yaml"
METADATA = ".snakemake/metadata"
RESULTS = {".json", ".npz", ".gz", ".tsv", ".csv", ".md", ".tex", ".svg", ".png", ".html", ".yaml"}  # files that no rule removes


@contextlib.contextmanager
def config_of(folder: Path) -> Iterator[Path]:
    """Yield an overlay with the whole config of the run in a folder; UserError where there is no run."""
    file = folder / CONFIG
    if not file.is_file():
        raise UserError(
            f"{file}: there is no such file, so no run that could be archived; expected the folder that Snakemake ran in"
        )
    record = read_yaml(file)
    if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
        raise UserError(f"{file}: has no section `config`; run snakemake again, which writes it")
    with tempfile.TemporaryDirectory() as scratch:
        overlay = Path(scratch) / "config_of_the_run.yaml"
        overlay.write_text(yaml.safe_dump(record["config"], allow_unicode=True), encoding="utf-8")
        yield overlay


@dataclass(frozen=True)
class Run:
    """The run in a folder: every job that its config asks for."""

    folder: Path
    jobs: list[PlannedJob]

    @classmethod
    def read(cls, root: Path, folder: Path) -> Run:
        """Ask Snakemake for the jobs of the config that the run was made with; nothing is run."""
        before = Path.cwd()
        with config_of(folder) as overlay:
            os.chdir(folder)
            try:
                return cls(folder, planned_jobs(root, [overlay], {}))
            finally:
                os.chdir(before)

    @property
    def left(self) -> list[PlannedJob]:
        """The jobs that are still to be done."""
        return [job for job in self.jobs if job.to_do]

    @property
    def gone(self) -> list[str]:
        """The files of done jobs that were removed: Snakemake makes none of them again that the targets need no more."""
        files = [output for job in self.jobs if not job.to_do for output in job.outputs if Path(output).suffix in RESULTS]
        return [file for file in files if not (self.folder / file).is_file()]

    @cached_property
    def outputs(self) -> dict[str, PlannedJob]:
        """The files and folders that exist, by path from the folder of the run, and the job that makes each."""
        made = {os.path.normpath(output): job for job in self.jobs for output in job.outputs}
        return {name: job for name, job in sorted(made.items()) if os.path.lexists(self.folder / name)}

    @cached_property
    def records(self) -> dict[str, dict[str, Any]]:
        """Snakemake's records of these files and folders, by the path of the record."""
        found = {}
        for file in sorted((self.folder / METADATA).rglob("*")):
            name = file.relative_to(self.folder / METADATA).as_posix().replace("/", "").replace("@", "")  # a long one is cut
            with contextlib.suppress(ValueError):  # a file of another kind
                if file.is_file() and base64.urlsafe_b64decode(name).decode() in self.outputs:
                    found[file.relative_to(self.folder).as_posix()] = read_json(file)
        return found

    @property
    def start(self) -> datetime:
        """When the first of these jobs began, in UTC."""
        return datetime.fromtimestamp(min(self._times("starttime"), default=0), UTC)

    @property
    def end(self) -> datetime:
        """When the last one ended, in UTC."""
        return datetime.fromtimestamp(max(self._times("endtime"), default=0), UTC)

    def _times(self, key: str) -> list[float]:
        return [record[key] for record in self.records.values() if record.get(key)]

    @property
    def benchmarks(self) -> list[str]:
        """The files with time and memory of the jobs."""
        return sorted({job.benchmark for job in self.jobs if job.benchmark and (self.folder / job.benchmark).is_file()})

    @property
    def logs(self) -> list[str]:
        """The log files of the jobs."""
        return sorted(
            {log for record in self.records.values() for log in record.get("log") or [] if (self.folder / log).is_file()}
        )
