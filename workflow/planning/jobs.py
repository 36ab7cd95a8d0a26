"""List the jobs of a run, done or to do, by Snakemake's dry runs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snakemake_interface_logger_plugins.common import LogEvent

from nan_merge.core.errors import UserError

if TYPE_CHECKING:
    from experiment.experiment import Experiment

TEMPORARY = ("merge_candidate", "finetune_premise", "convert_checkpoint")  # rules whose models Snakemake removes after use
MERGES = ("merge_checkpoints", "merge_for_task")  # with `keep_merged: false` those of these, too


@dataclass(frozen=True)
class PlannedJob:
    """One job: its rule, wildcards and files, that of its time and memory, and whether it has to be run."""

    rule: str
    wildcards: Mapping[str, str]
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    to_do: bool = True
    benchmark: str = ""

    def is_temporary(self, experiment: Experiment) -> bool:
        """Return whether the first output of the job is removed once the jobs that need it are done."""
        if self.rule in MERGES:
            return not experiment.keep_merged and self.wildcards["suite"] in experiment.suites
        return self.rule in TEMPORARY

    def suite(self, experiment: Experiment) -> str:
        """Return the suite that the job belongs to, or one of those that share its output."""
        if "suite" in self.wildcards:
            return self.wildcards["suite"]
        kind = next(kind for kind in ("data", "checkpoints", "tower") if kind in self.wildcards)
        return experiment.sharing(kind, self.wildcards[kind])[0]


class JobRecorder(logging.Handler):
    """Keep the jobs with outputs that Snakemake logs."""

    def __init__(self) -> None:
        """Begin without jobs."""
        super().__init__()
        self.jobs: list[PlannedJob] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the job if the record describes one."""
        job = vars(record)
        if job.get("event") == LogEvent.JOB_INFO and job["output"]:
            inputs, outputs, benchmark = tuple(job["input"]), tuple(job["output"]), str(job.get("benchmark") or "")
            self.jobs.append(PlannedJob(job["rule_name"], dict(job["wildcards"]), inputs, outputs, benchmark=benchmark))


def dry_run(root: Path, configfiles: Sequence[Path], config: Mapping[str, Any], everything: bool) -> list[PlannedJob]:
    """Return the jobs that a run in the working directory would do; nothing is run, nothing is locked.

    `configfiles`, `config` and `everything` are Snakemake's `--configfile`, `--config` and `--forceall`.
    Raises UserError if Snakemake refuses the run.
    """
    from snakemake.api import SnakemakeApi
    from snakemake.exceptions import WorkflowError
    from snakemake.logging import logger
    from snakemake.settings import types

    settings = types.ConfigSettings(dict(config), [file.resolve() for file in configfiles])
    graph = types.DAGSettings(force_incomplete=True, forceall=everything)  # as profiles/default: incomplete outputs are remade
    recorder = JobRecorder()
    try:
        with SnakemakeApi(types.OutputSettings(quiet={types.Quietness.ALL})) as api:
            logger.addHandler(recorder)
            workflow = api.workflow(types.ResourceSettings(cores=1), settings, snakefile=root / "Snakefile")
            workflow.dag(graph).execute_workflow("dryrun", execution_settings=types.ExecutionSettings(lock=False))
    except WorkflowError as error:
        raise UserError(str(error)) from None
    finally:
        logger.removeHandler(recorder)
    return recorder.jobs


def planned_jobs(root: Path, configfiles: Sequence[Path], config: Mapping[str, Any]) -> list[PlannedJob]:
    """Return every job of a run that has outputs; see `dry_run` for the arguments."""
    to_do = {job.outputs for job in dry_run(root, configfiles, config, everything=False)}
    jobs = dry_run(root, configfiles, config, everything=True)
    return [replace(job, to_do=job.outputs in to_do) for job in jobs]
