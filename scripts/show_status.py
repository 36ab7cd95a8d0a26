"""Show how the last run in this folder stands: done, at work, failed by rule, and the log of the first failure."""

import json
from pathlib import Path
from typing import Any

from cluster import snakemake_log
from cluster.slurm import states
from nan_merge.cli.parser import command_parser
from nan_merge.core.command_line import command_line

COUNTS = ("planned", "done", "at work", "failed", "waiting")


def main() -> None:
    """Parse the command line and print the summary; exit code 0 whatever it says."""
    parser = command_parser("status", __doc__, "nan-merge status")
    parser.add_argument("--directory", type=Path, default=Path(), metavar="FOLDER", help="the folder that Snakemake runs in")
    parser.add_argument("--json", action="store_true", default=False, help="print JSON")
    args = parser.parse_args()
    found = status(args.directory.resolve())
    print(json.dumps(found, indent=1, ensure_ascii=False) if args.json else text(found))


def status(folder: Path) -> dict[str, Any]:
    """Return the state of the last run in a folder: its log, jobs by rule, jobs at work, failed jobs, the first one's log."""
    file = snakemake_log.newest(folder)
    run = snakemake_log.read(file)
    queue = states() if run.slurm and run.running else {}
    slurm = {job: run.slurm[job] for job in run.running if job in run.slurm}
    found: dict[str, Any] = {
        "log": str(file.relative_to(folder)),
        "state": snakemake_log.at_work(folder, file, run),
        "rules": {name: dict(zip(COUNTS, counts, strict=True)) for name, *counts in run.table()},
        "at work": [
            {"job": run.names[job]}
            | ({"slurm": slurm[job], "queue": queue.get(slurm[job], "no longer in the queue")} if job in slurm else {})
            for job in run.running
        ],
        "failed": [failure.job for failure in run.failed.values()],
    }
    if run.failed:
        name, lines = snakemake_log.tail(folder, next(iter(run.failed.values())))
        found["first failure"] = {"log": name, "lines": lines}
    return found


def text(found: dict[str, Any]) -> str:
    """Return the state as a table and lists."""
    lines = [f"{found['log']}: {found['state']}", "", f"{'rule':24}" + "".join(f"{name:>9}" for name in COUNTS)]
    lines += [f"{name:24}" + "".join(f"{count:9}" for count in counts.values()) for name, counts in found["rules"].items()]
    for job in found["at work"]:
        lines.append(f"at work: {job['job']}" + (f" (SLURM job {job['slurm']}, {job['queue']})" if "slurm" in job else ""))
    lines += [f"failed: {job}" for job in found["failed"]]
    if failure := found.get("first failure"):
        lines += ["", "\n    ".join([f"log of the first failure, {failure['log']}:", *failure["lines"]])]
    return "\n".join([*lines, "", "what is still to be made: snakemake -n --quiet rules"])


if __name__ == "__main__":
    command_line(main)
