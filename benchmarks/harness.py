"""Run a program as a whole process and measure it: wall time to durable files, processor time, memory. Standard library."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

BLOCK = 1 << 20
PER_SECOND = 50  # samples of memory
RESERVE = 300_000_000  # bytes of memory that are left to the machine; a program that takes them is killed
Item = TypeVar("Item")
Outcome = str  # "ok", "killed (memory)", "killed (time)", "killed" or "failed: <last line it said>"


@dataclass(frozen=True)
class Measurement:
    """What one run took. Memory is the peak over the process and its children, in bytes.

    `seconds` is from the start to durable files: `process_seconds` and the fsync of everything in the output folder.
    `anonymous` is memory without a file behind it, private (RssAnon) and shared (RssShmem); `resident` is all memory,
    mapped files included. `others` is the processor time that other programs took meanwhile, in seconds.
    """

    outcome: Outcome
    seconds: float
    process_seconds: float
    processor_seconds: float
    anonymous: int
    resident: int
    others: float


def measure(
    command: Sequence[str],
    output: Path,
    *,
    folder: Path | None = None,
    variables: Mapping[str, str] | None = None,
    limit: float = 1800.0,
    per_second: float = PER_SECOND,
) -> Measurement:
    """Run a command in `folder`, wait for it and for the disk, and remove its `output`; `limit` in seconds.

    A program that runs into the machine's memory is the one that is killed, and is reported as killed.
    """
    log = output.with_name(f"{output.name}.log")
    before = machine_seconds()
    with open(log, "wb") as said:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **(variables or {})}, stdout=said, stderr=said, start_new_session=True
        )
        watch = _Watch(process.pid, limit, 1 / per_second)
        try:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            ended, taken = time.perf_counter(), machine_seconds() - before
            flush(output)
            durable = time.perf_counter()
        finally:
            watch.end()
    own = usage.ru_utime + usage.ru_stime
    found = Measurement(
        outcome=_outcome(process.returncode, watch.reason, log),
        seconds=durable - start,
        process_seconds=ended - start,
        processor_seconds=own,
        anonymous=watch.anonymous,
        resident=watch.resident,
        others=max(0.0, taken - own),
    )
    shutil.rmtree(output, ignore_errors=True)
    os.sync()  # what the removal left to do is not the next program's
    return found


class _Watch:
    """A thread that samples the memory of a session of processes, and ends it at a limit."""

    def __init__(self, session: int, limit: float, interval: float) -> None:
        self.session, self.until, self.interval = session, time.monotonic() + limit, interval
        self.anonymous = self.resident = 0
        self.reason = ""
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def end(self) -> None:
        """Stop sampling, and leave no process of the session behind."""
        self.done.set()
        self.thread.join()
        self._kill("")

    def _run(self) -> None:
        _write(f"/proc/{self.session}/oom_score_adj", "1000")  # if memory runs out, the kernel takes this one
        while not self.done.wait(self.interval):
            memory = [resident(pid) for pid in _members(self.session)]
            self.anonymous = max(self.anonymous, sum(each["RssAnon"] + each["RssShmem"] for each in memory))
            self.resident = max(self.resident, sum(each["VmRSS"] for each in memory))
            if self.resident > RESERVE and available_memory() < RESERVE:
                self._kill("memory")
            elif time.monotonic() > self.until:
                self._kill("time")

    def _kill(self, reason: str) -> None:
        self.reason = self.reason or reason
        for pid in _members(self.session):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def _outcome(code: int, reason: str, log: Path) -> Outcome:
    if code == 0:
        return "ok"
    if code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return f"killed ({reason})" if reason else "killed"
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return f"failed: {next((line.strip() for line in reversed(lines) if line.strip()), f'exit code {code}')}"


def _members(session: int) -> list[int]:
    """Return the processes of a session."""
    members = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.getsid(int(name)) == session:
                members.append(int(name))
        except (ProcessLookupError, PermissionError):
            continue
    return members


def resident(pid: int | str) -> dict[str, int]:
    """Return VmRSS, RssAnon and RssShmem of a process in bytes: zeros for one that has ended."""
    found = {"VmRSS": 0, "RssAnon": 0, "RssShmem": 0}
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return found
    return found | {key: 1024 * int(value) for key, value in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.M) if key in found}


def available_memory() -> int:
    """Return the memory of the machine that a program could still take, in bytes."""
    match = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    return 1024 * int(match[1]) if match else 0


def machine_seconds() -> float:
    """Return the processor time that all programs have taken since the machine started."""
    user, nice, system = map(int, Path("/proc/stat").read_text().split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def _write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return


def flush(folder: Path) -> None:
    """Wait until every file of a folder, and the folder, are on the disk."""
    for path in [*folder.rglob("*"), folder] if folder.is_dir() else []:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def turn(items: Sequence[Item], number: int) -> list[Item]:
    """Return items in the order of round `number`: each comes first, second, ... about as often."""
    first = number % len(items)
    return [*items[first:], *items[:first]]


def in_turn(work: Mapping[str, Callable[[], Any]], rounds: int) -> list[dict[str, Any]]:
    """Return the seconds of every part of the work, wall and processor, round by round; a round before them warms up."""
    found = []
    for number in range(-1, rounds):
        for part in turn([*work], max(number, 0)):
            wall, processor = time.perf_counter(), time.process_time()
            work[part]()
            seconds = {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}
            if number >= 0:
                found.append({"round": number + 1, "part": part, **seconds})
    return found


def warm(files: Iterable[Path]) -> None:
    """Read files once, so that they lie in the page cache as far as it goes."""
    block = bytearray(BLOCK)
    for file in files:
        with open(file, "rb", buffering=0) as stream:
            while stream.readinto(block):
                pass


def cool(files: Iterable[Path]) -> None:
    """Drop files from the page cache."""
    for file in files:
        handle = os.open(file, os.O_RDONLY)
        os.fsync(handle)  # pages that are not on the disk yet cannot be dropped
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)
