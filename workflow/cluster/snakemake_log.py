"""Parse the log of a run below .snakemake/log: jobs planned, done, running and failed."""

from __future__ import annotations

import fcntl
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from nan_merge.core.errors import UserError

TAIL = 15  # lines of a failed job's log


@dataclass
class Failure:
    """A failed job and its log files, the rule's own first."""

    job: str
    logs: list[str]


@dataclass
class Run:
    """The jobs of one run by Snakemake's job number; names are the messages of the rules."""

    planned: Counter[str] = field(default_factory=Counter)  # jobs by rule
    names: dict[int, str] = field(default_factory=dict)
    slurm: dict[int, str] = field(default_factory=dict)  # numbers in SLURM's queue
    running: dict[int, None] = field(default_factory=dict)
    done: dict[int, None] = field(default_factory=dict)
    failed: dict[int, Failure] = field(default_factory=dict)
    ended: bool = False

    def rule(self, job: int) -> str:
        """Return the rule of a job."""
        return self.names.get(job, "?").partition(":")[0]

    def table(self) -> list[tuple[str, int, int, int, int, int]]:
        """Return rows of rule, planned, done, at work, failed and not begun, and a last one of their sums."""
        counts = [Counter(map(self.rule, jobs)) for jobs in (self.done, self.running, self.failed)]
        rows = [(rule, n, *(c[rule] for c in counts), n - sum(c[rule] for c in counts)) for rule, n in self.planned.items()]
        return [*rows, ("total", *(sum(column) for column in zip(*(row[1:] for row in rows), strict=True)))]


def newest(folder: Path) -> Path:
    """Return the log of the last run in a project's folder that had something to do; dry runs do not count."""
    for file in sorted(folder.glob(".snakemake/log/*.snakemake.log"), reverse=True):
        text = file.read_text(encoding="utf-8", errors="replace")
        if "\nJob stats:\n" in text and "This was a dry-run" not in text:
            return file
    raise UserError(f"{folder}/.snakemake/log holds no log of a run; has one been started here?")


def read(file: Path) -> Run:
    """Parse a run's log from its first line to its last."""
    run, lines = Run(), file.read_text(encoding="utf-8", errors="replace").splitlines()
    rule = ""
    for i, line in enumerate(lines):
        if line == "Job stats:":
            run.planned = _planned(lines[i + 3 :])
        elif found := re.fullmatch(r"Job (\d+): (.+)", line):
            _begin(run, int(found[1]), found[2])
        elif found := re.fullmatch(r"(?:local)?rule (\w+):", line):
            rule = found[1]
        elif rule and (found := re.fullmatch(r"    jobid: (\d+)", line)):
            _begin(run, int(found[1]), rule)
            rule = ""
        elif found := re.match(r"Job (\d+) has been submitted with SLURM jobid (\d+)", line):
            run.slurm[int(found[1])] = found[2]
        elif found := re.match(r"Finished jobid: (\d+) ", line):
            run.running.pop(int(found[1]), None)
            run.done[int(found[1])] = None
        elif found := re.fullmatch(r"Error in (?:rule|group) (\S+):", line):
            _fail(run, found[1], lines[i + 1 : i + 12])
        elif line.startswith(("Complete log(s):", "Exiting because a job execution failed")):
            run.ended = True
    return run


def _planned(lines: list[str]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for line in lines:
        name, _, count = line.rpartition(" ")
        if name.strip() == "total" or not count.isdigit():
            break
        counts[name.strip()] = int(count)
    return counts


def _begin(run: Run, job: int, name: str) -> None:
    run.names[job] = name
    run.failed.pop(job, None)  # it is tried again
    run.running[job] = None


def _fail(run: Run, rule: str, block: list[str]) -> None:
    found = {key: value for key, _, value in (line.strip().partition(": ") for line in block)}
    job = int(found.get("jobid", -1))
    run.running.pop(job, None)
    logs = re.sub(r" \(check log file.*", "", found.get("log", ""))
    run.failed[job] = Failure(run.names.setdefault(job, rule), [name for name in logs.split(", ") if name])


def at_work(folder: Path, file: Path, run: Run) -> str:
    """Describe whether the run goes on."""
    if run.ended:
        return "ended"
    if not run.running and not run.failed and run.done and len(run.done) == sum(run.planned.values()):
        return "ended"
    quiet = round(time.time() - file.stat().st_mtime)
    if is_locked(folder):
        return f"at work, or killed; its last message is {quiet} s old"
    return f"broken off: no end in its log, and nothing holds the folder; its last message is {quiet} s old"


def is_locked(folder: Path) -> bool:
    """Return whether a run holds the folder: `make` by a kernel lock, Snakemake by lock files that survive a kill."""
    return _held(folder / ".run.lock") or any(folder.glob(".snakemake/locks/*"))


def _held(lock: Path) -> bool:
    if not lock.exists():
        return False
    with open(lock) as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def tail(folder: Path, failure: Failure) -> tuple[str, list[str]]:
    """Return the first log of a failed job that holds anything, and its last lines."""
    for name in failure.logs:
        file = folder / name
        if file.is_file() and (lines := file.read_text(encoding="utf-8", errors="replace").splitlines()):
            return name, lines[-TAIL:]
    return (failure.logs or ["no log"])[0], ["(empty: the job ended before it wrote a line)"]
