"""Mend how Snakemake's SLURM executor looks at its jobs, where it would wait for ever. No torch."""

from __future__ import annotations

import asyncio
import importlib.metadata
from typing import Any

MENDED = "2.8.0"  # requirements.txt pins it
AGAIN = 10.0  # seconds until SLURM is asked again, when it did not answer


def mend(again: float = AGAIN) -> None:
    """Change the executor in this process: it goes on asking, and understands how sacct writes a cancelled job.

    As it is, it forgets all its jobs when SLURM does not answer five times within a second, as while slurmctld restarts; it
    turns from squeue to sacct when scontrol does not answer; and it takes sacct's `CANCELLED by 1000` for a job at work.
    """
    import snakemake_executor_plugin_slurm as executor

    if importlib.metadata.version("snakemake-executor-plugin-slurm") != MENDED:
        return  # another version may have other functions, and other faults
    age, look = executor.get_min_job_age(), executor.query_job_status

    async def patient(command: str, logger: Any) -> tuple[dict[str, str], float]:
        """Return the state of each job, once SLURM says it, and the seconds that it took."""
        silent = False
        while (found := await look(command, logger))[0] is None:
            if not silent:
                logger.warning(f"SLURM does not answer {command.split()[0]}; asking again until it does")
            silent = True
            await asyncio.sleep(again)
        states, seconds = found
        return {number: state.partition(" ")[0] for number, state in states.items()}, seconds

    executor.get_min_job_age = lambda: age
    executor.query_job_status = patient
