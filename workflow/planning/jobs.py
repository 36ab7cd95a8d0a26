"""Ask Snakemake what a run would do: every job of the run, done or to do, from the same dry run that `--dry-run` makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nan_merge.core.errors import UserError

if TYPE_CHECKING:
    from experiment.experiment import Experiment

JOINT_RULE = "collect_gram_plus"  # the rules of that name end in a suite


@dataclass(frozen=True)
class PlannedJob:
    """One job: its rule and wildcards, its files, whether it has to be done, whether its outputs are removed after use."""

    rule: str
    wildcards: Mapping[str, str]
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    to_do: bool = True
    temporary: bool = False

    @property
    def kind(self) -> str:
        """The rule, or the name that several rules share."""
        return JOINT_RULE if self.rule.startswith(JOINT_RULE) else self.rule

    def suite(self, experiment: Experiment) -> str:
        """Return the suite that the job belongs to, or one of those that share what it makes."""
        if "suite" in self.wildcards:
            return self.wildcards["suite"]
        kind = next(kind for kind in ("data", "checkpoints", "tower") if kind in self.wildcards)
        return experiment.sharing(kind, self.wildcards[kind])[0]


def dry_run(root: Path, configfiles: Sequence[Path], config: Mapping[str, Any]) -> tuple[Experiment, list[PlannedJob]]:
    """Return the checked config and the jobs of the run in the working directory; nothing is run, nothing is locked.

    `configfiles` and `config` stand for `--configfile` and `--config`. What Snakemake refuses is a UserError.
    """
    from snakemake.api import SnakemakeApi
    from snakemake.exceptions import WorkflowError
    from snakemake.settings import types

    given = types.ConfigSettings(dict(config), [file.resolve() for file in configfiles])
    again = types.DAGSettings(force_incomplete=True)  # as profiles/default: what was half done is done again
    try:
        with SnakemakeApi(types.OutputSettings(quiet={types.Quietness.ALL})) as api:
            workflow = api.workflow(types.ResourceSettings(cores=1), given, snakefile=root / "Snakefile")
            workflow.dag(again).execute_workflow("dryrun", execution_settings=types.ExecutionSettings(lock=False))
            found = workflow._workflow  # the API has no other way to the jobs; requirements.txt pins the version
            return found.globals["experiment"], jobs_of(found.dag)
    except WorkflowError as error:
        raise UserError(str(error)) from None


def jobs_of(graph: Any) -> list[PlannedJob]:
    """Return the jobs of a graph of Snakemake that make something."""
    from snakemake.io import is_flagged

    return [
        PlannedJob(
            job.rule.name,
            dict(job.wildcards_dict),
            tuple(map(str, job.input)),
            tuple(map(str, job.output)),
            bool(graph.needrun(job)),
            any(is_flagged(file, "temp") for file in job.output),
        )
        for job in graph.jobs
        if job.output
    ]
