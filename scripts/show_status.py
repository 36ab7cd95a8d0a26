"""Show how the last run in this folder stands: done, at work, failed by rule, and the log of the first failure."""

import argparse
from pathlib import Path

from cluster import snakemake_log
from cluster.slurm import states
from nan_merge.core.command_line import command_line


def main() -> None:
    """Parse the command line and print the summary; exit code 0 whatever it says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, default=Path(), help="the folder that Snakemake runs in")
    folder = parser.parse_args().directory.resolve()
    file = snakemake_log.newest(folder)
    run = snakemake_log.read(file)
    print(f"{file.relative_to(folder)}: {snakemake_log.at_work(folder, file, run)}\n")
    print(f"{'rule':24}{'planned':>9}{'done':>9}{'at work':>9}{'failed':>9}{'waiting':>9}")
    for name, *counts in run.table():
        print(f"{name:24}" + "".join(f"{count:9}" for count in counts))
    queue = states() if run.slurm and run.running else {}
    for job in run.running:
        number = run.slurm.get(job)
        where = f" (SLURM job {number}, {queue.get(number, 'no longer in the queue')})" if number else ""
        print(f"at work: {run.names[job]}{where}")
    for failure in run.failed.values():
        print(f"failed: {failure.job}")
    if run.failed:
        name, lines = snakemake_log.tail(folder, next(iter(run.failed.values())))
        print(f"\nlog of the first failure, {name}:", *lines, sep="\n    ")
    print("\nwhat is still to be made: snakemake -n --quiet rules")


if __name__ == "__main__":
    command_line(main)
