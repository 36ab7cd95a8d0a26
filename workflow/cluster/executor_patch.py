"""Patch the polling of Snakemake's SLURM executor where it would wait for ever."""

from __future__ import annotations

import asyncio
import importlib.metadata
from typing import Any

PATCHED_VERSION = "2.8.0"  # requirements.txt pins it
RETRY_SECONDS = 10.0  # until SLURM is queried again after a failed query


def patch_slurm_polling(again: float = RETRY_SECONDS) -> None:
    """Change the executor in this process: failed queries are repeated, and sacct's spelling of cancelled jobs is known.

    Unpatched, the executor drops all its jobs when five queries within a second fail, as while slurmctld restarts; it
    changes from squeue to sacct when scontrol fails; and it takes sacct's `CANCELLED by 1000` for a running job.
    """
    import snakemake_executor_plugin_slurm as executor

    if importlib.metadata.version("snakemake-executor-plugin-slurm") != PATCHED_VERSION:
        return  # another version may have other functions, and other faults
    age, query = executor.get_min_job_age(), executor.query_job_status

    async def query_until_answered(command: str, logger: Any) -> tuple[dict[str, str], float]:
        """Return the state of each job and the seconds that the query took."""
        warned = False
        while (answer := await query(command, logger))[0] is None:
            if not warned:
                logger.warning(f"SLURM does not answer {command.split()[0]}; asking again until it does")
            warned = True
            await asyncio.sleep(again)
        states, seconds = answer
        return {number: state.partition(" ")[0] for number, state in states.items()}, seconds

    executor.get_min_job_age = lambda: age
    executor.query_job_status = query_until_answered
