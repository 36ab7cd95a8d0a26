"""Take Snakemake's default limit of started jobs a second away: it costs more processor time than it saves."""

from __future__ import annotations

from typing import Any

DEFAULT = (100, 1.0)  # jobs in seconds: `--max-jobs-per-timespan 100/1s`


def lift_default_rate(workflow: Any) -> None:
    """Schedule without a limit of started jobs, unless the user set one; `workflow` is Snakemake's, about to run.

    With a limit, Snakemake 9.27 selects jobs again a second after each selection, and once more for each job that ends. Every
    selection asks for the next one, so after N jobs there are N selections a second, in each of which the input files of all
    ready jobs are looked at. A run of 460 jobs spent a third of a core on them.
    """
    limit = workflow.scheduler.job_rate_limiter
    if limit is not None and (limit.max_jobs, limit.timespan) == DEFAULT:
        workflow.scheduler.job_rate_limiter = None
