"""Query SLURM, and refuse a run that would hang or submit jobs twice."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from nan_merge.core.errors import UserError

MAX_POLLING_INTERVAL = 180  # seconds: upper limit of the executor
HELP = "see docs/cluster.md"


@dataclass(frozen=True)
class SlurmJob:
    """A job of a Snakemake run in SLURM's queue."""

    number: str
    state: str
    rule: str


def ask(*command: str, environment: dict[str, str] | None = None) -> str:
    """Return the output of a command of SLURM; UserError if it cannot be run or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    except FileNotFoundError:
        raise UserError(f"{command[0]}: no such command here; --profile slurm is for a machine that can submit jobs") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{command[0]} did not answer within a minute; is slurmctld up? (scontrol ping)") from None
    if done.returncode:
        raise UserError(f"{' '.join(command)} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def settings() -> dict[str, str]:
    """Return the cluster's configuration, as `scontrol show config` writes it."""
    return dict(re.findall(r"^(\w+) += (.*?) *$", ask("scontrol", "show", "config"), flags=re.MULTILINE))


def accounting(config: dict[str, str]) -> bool:
    """Return whether finished jobs are kept in a data base that sacct can read."""
    return config.get("AccountingStorageType", "").endswith("slurmdbd")


def job_age(config: dict[str, str]) -> int:
    """Return the seconds for which squeue lists a finished job (MinJobAge)."""
    number = re.match(r"\d+", config.get("MinJobAge", ""))
    return int(number[0]) if number else 0


def remembers(config: dict[str, str]) -> bool:
    """Return whether squeue lists a finished job at the next poll, even after the longest interval."""
    return job_age(config) >= MAX_POLLING_INTERVAL + 20


def jobs_in(folder: Path) -> list[SlurmJob]:
    """Return the queued and running jobs that Snakemake runs in this folder submitted: the executor sets the comment of each."""
    if not shutil.which("squeue"):
        return []
    mine = ask("squeue", "-h", "-u", str(os.getuid()), "-o", "%i|%T|%Z|%k")
    rows = [line.split("|", 3) for line in mine.splitlines()]
    return [
        SlurmJob(number, state, comment.partition("_")[2])
        for number, state, place, comment in (row for row in rows if len(row) == 4)
        if Path(place) == folder and comment.startswith(("rule_", "group_"))
    ]


def states() -> dict[str, str]:
    """Return the state of each of this user's jobs in the queue, by number; nothing if the query fails."""
    try:
        lines = ask("squeue", "-h", "-u", str(os.getuid()), "-o", "%i|%T").splitlines()
    except UserError:
        return {}
    return dict(line.split("|") for line in lines)


def check(
    status_command: str | None, first_poll: int, folder: Path, account: str | None = None, arrays: str | None = None
) -> None:
    """Raise UserError if a run of Snakemake's SLURM executor would hang for ever or submit jobs a second time.

    The arguments are its settings slurm-status-command and slurm-init-seconds-before-status-checks, the working directory
    of the run, the slurm_account of the profile, and the setting slurm-array-jobs.
    """
    config = settings()
    _check_polling(config, status_command, first_poll)
    if arrays and (status_command != "squeue" or job_age(config) < 3 * first_poll):
        raise UserError(
            "slurm-array-jobs together with sacct: the executor takes the end of one task of an array for the end of all."
            f" Set slurm-status-command: squeue, or group jobs instead ({HELP})"
        )
    if account:
        _check_account(config, account)
    if left := jobs_in(folder):
        numbers = " ".join(job.number for job in left)
        raise UserError(
            f"{len(left)} jobs of an earlier run in this folder are still {'/'.join(sorted({j.state.lower() for j in left}))}:"
            f" they would be submitted a second time over the same files. Wait for them, or end them: scancel {numbers}"
        )
    _warn_of_other_configuration(config)


def _check_polling(config: dict[str, str], status_command: str | None, first_poll: int) -> None:
    """Check that the end of a job is noticed: squeue lists it until the next poll, or accounting keeps it."""
    age = job_age(config)
    if status_command == "squeue" and age >= 3 * first_poll:
        if not remembers(config):
            raise UserError(
                f"squeue forgets a finished job after {age} s (MinJobAge of this cluster), and Snakemake may poll only every"
                f" {MAX_POLLING_INTERVAL} s: it would wait for ever. {_instead(config)}"
            )
    elif not accounting(config):
        short = f" (squeue is not used where MinJobAge, {age} s, is below three times the first poll, {first_poll} s)"
        raise UserError(
            "this cluster keeps no accounting, so sacct never reports a job as done and the run would wait for ever"
            f"{short if status_command == 'squeue' else ''}; set slurm-status-command: squeue and"
            f" slurm-init-seconds-before-status-checks to at most {max(1, age // 3)} in the profile ({HELP})"
        )
    else:
        ask("sacct", "-X", "-n", "--starttime", "now")


def accounts() -> list[str]:
    """Return the accounts that this user may charge."""
    return sorted(set(ask("sacctmgr", "-nP", "list", "associations", f"user={getpass.getuser()}", "format=account").split()))


def default_account() -> str | None:
    """Return the account that SLURM charges when none is named."""
    return ask("sacctmgr", "-nP", "list", "user", getpass.getuser(), "format=defaultaccount").strip() or None


def _check_account(config: dict[str, str], account: str) -> None:
    """Check the account: with a wrong one every submission fails, and that of a group of jobs hangs."""
    if not accounting(config):
        raise UserError(f"slurm_account: {account} in the profile, but this cluster keeps no accounts; remove the line ({HELP})")
    if (known := accounts()) and account.lower() not in known:
        raise UserError(f"slurm_account: {account} in the profile is none of yours: {', '.join(known)} ({HELP})")


def _instead(config: dict[str, str]) -> str:
    if accounting(config):
        return f"Set slurm-status-command: sacct in the profile ({HELP})"
    return f"Ask for a MinJobAge of 300 (SLURM's default), or run inside one allocation ({HELP})"


def _warn_of_other_configuration(config: dict[str, str]) -> None:
    """Warn if steps of jobs, which start without SLURM_CONF, would find no cluster or another one."""
    if "SLURM_CONF" not in os.environ or not shutil.which("scontrol"):
        return
    without = {key: value for key, value in os.environ.items() if key != "SLURM_CONF"}
    try:
        cluster = re.search(r"ClusterName += (\S+)", ask("scontrol", "show", "config", environment=without))
    except UserError:
        cluster = None
    if not cluster or cluster[1] != config.get("ClusterName"):
        print(f"warning: SLURM_CONF={os.environ['SLURM_CONF']} is not passed on to the steps of jobs. Should every job fail with"
              f" 'Could not establish a configuration source', {HELP}", file=sys.stderr)  # fmt: skip
