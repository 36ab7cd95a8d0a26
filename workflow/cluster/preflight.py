"""Refuse a run, before its first job, that would fail or hang: unlocked assets, a read-only folder, a cluster it cannot watch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster import executor_patch, slurm
from nan_merge.core.errors import UserError, tell

if TYPE_CHECKING:
    from experiment.experiment import Experiment


def check_run(experiment: Experiment, workflow: Any) -> None:
    """Raise UserError if the run cannot succeed; `workflow` is Snakemake's, with its graph built.

    On a SLURM cluster the executor is patched, too: see `executor_patch`.
    """
    assets = [job.wildcards.asset for job in workflow.dag.needrun_jobs() if job.rule.name == "fetch_asset"]
    if unlocked := experiment.unlocked(assets):
        raise UserError(
            f"not in config/assets.lock.json, or unverified there: {', '.join(unlocked)}; expected revision, size and sha256 of"
            f" all assets to fetch; run: nan-merge lock {' '.join(unlocked)}"
        )
    if not os.access("results" if os.path.exists("results") else ".", os.W_OK):
        raise UserError(
            "results/ cannot be written (read-only, or another user's);"
            " make it writable or choose another folder with --directory"
        )
    for note in experiment.notes():
        tell(f"note: {note}")
    if workflow.executor_plugin.name == "slurm":
        settings = workflow.executor_settings
        account = (workflow.resource_settings.default_resources or {}).get("slurm_account")
        slurm.check(
            settings.status_command,
            settings.init_seconds_before_status_checks,
            Path.cwd(),
            account.raw if account else None,
            settings.array_jobs,
        )
        executor_patch.patch_slurm_polling()
