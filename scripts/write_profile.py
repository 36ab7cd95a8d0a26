"""Write Snakemake's profile for the SLURM cluster that this is run on, once: afterwards `snakemake --profile slurm` works."""

import argparse
import os
import re
from pathlib import Path

import yaml

from cluster.partitions import Partition, partitions
from cluster.slurm import accounting, accounts, default_account, job_age, remembers, settings
from nan_merge.core.command_line import command_line
from nan_merge.core.errors import UserError

TEMPLATE = Path(__file__).resolve().parents[1] / "profiles" / "slurm"
PROFILE = "profile.v9+.yaml"
HEAD = "# Limits of the partitions that jobs may go to, as sinfo told them; only one with max_gpu gets GPU jobs.\n"


def main() -> None:
    """Parse the command line, ask the cluster and write the profile; one that is there already is not touched."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "snakemake"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--account", help="the account that jobs are charged to; without it, your default one")
    parser.add_argument("--partitions", nargs="+", help="the partitions to use; without it, the default one and those with GPUs")
    parser.add_argument("--output", type=Path, default=home / "slurm", help="folder of the profile (%(default)s)")
    args = parser.parse_args()
    if args.output.exists():
        raise UserError(
            f"{args.output} is there already and stays as it is. Is it your site's profile? `snakemake --profile slurm` uses it,"
            " and profiles/default adds what this workflow needs. To write another one: --output FOLDER, then --profile FOLDER"
        )
    config, known = settings(), partitions()
    account = args.account or own_account(config)
    status = watching(config)
    text = filled((TEMPLATE / PROFILE).read_text(encoding="utf-8"), account, status)
    used = chosen(known, args.partitions)
    args.output.mkdir(parents=True)
    (args.output / PROFILE).write_text(text, encoding="utf-8")
    (args.output / "partitions.yaml").write_text(HEAD + limits(used), encoding="utf-8")
    print(f"wrote {args.output}: account {account or 'none'}, jobs watched by {status}, partitions"
          f" {', '.join(f'{p.name} ({p.gpus} GPUs a node)' if p.gpus else p.name for p in used)}")  # fmt: skip
    print("run: snakemake --profile slurm" if args.output == home / "slurm" else f"run: snakemake --profile {args.output}")


def own_account(config: dict[str, str]) -> str | None:
    """Return the user's account where the cluster keeps accounts: the default one, or the only one."""
    if not accounting(config):
        return None
    found = accounts()
    if account := default_account():
        return account
    if len(found) > 1:
        raise UserError(f"you have the accounts {', '.join(found)} and no default; choose one: --account {found[0]}")
    return found[0] if found else None


def watching(config: dict[str, str]) -> str:
    """Choose the command that jobs are watched by: squeue needs no data base."""
    if remembers(config):
        return "squeue"
    if accounting(config):
        return "sacct"
    raise UserError(
        "without accounting, squeue is all there is, and it forgets a finished job after"
        f" {job_age(config)} s (MinJobAge): ask for 300, SLURM's default, or run inside one allocation; see docs/cluster.md"
    )


def chosen(known: list[Partition], names: list[str] | None) -> list[Partition]:
    """Return the partitions to use."""
    by_name = {partition.name: partition for partition in known}
    if missing := [name for name in names or [] if name not in by_name]:
        raise UserError(f"no partition {', '.join(missing)} here; sinfo shows {', '.join(by_name)}")
    used = [by_name[name] for name in names] if names else [p for p in known if p.default or p.gpus]
    if not used:
        raise UserError(f"this cluster has no default partition; choose: --partitions {' '.join(by_name)}")
    return used


def filled(template: str, account: str | None, status: str) -> str:
    """Return the template with the cluster's facts in place of its examples."""
    text = re.sub(r"(?m)^slurm-status-command: .*$", f"slurm-status-command: {status}", template)
    return re.sub(r"(?m)^  # (slurm_account: )my_account", rf"  \1{account}", text) if account else text


def limits(used: list[Partition]) -> str:
    """Return the plugin's partition file."""
    entries = {
        partition.name: {
            **({"max_runtime": partition.minutes} if partition.minutes else {}),
            "max_threads": partition.cpus,
            "max_mem_mb": partition.megabytes,
            **({"max_gpu": partition.gpus} if partition.gpus else {}),
            **({"available_gpu_models": list(partition.models)} if partition.models else {}),
        }
        for partition in used
    }
    return yaml.safe_dump({"partitions": entries}, sort_keys=False)


if __name__ == "__main__":
    command_line(main)
