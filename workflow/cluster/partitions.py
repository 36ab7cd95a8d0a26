"""List the partitions of a SLURM cluster and the largest node of each."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cluster.slurm import ask


@dataclass(frozen=True)
class Partition:
    """A partition as sinfo lists it: minutes (None: no limit), CPUs, MB and GPUs of its largest node."""

    name: str
    default: bool
    minutes: int | None
    cpus: int
    megabytes: int
    gpus: int
    models: tuple[str, ...]


def partitions() -> list[Partition]:
    """Return the partitions that this user can use, the default one first."""
    known: dict[str, Partition] = {}
    for line in ask("sinfo", "-h", "-e", "-o", "%P|%l|%c|%m|%G|%a").splitlines():
        name, limit, cpus, megabytes, gres, state = line.split("|")
        if state != "up":
            continue
        gpus = re.findall(r"gpu:(?:([\w.-]+):)?(\d+)", gres)
        here = Partition(
            name.rstrip("*"), name.endswith("*"), minutes(limit), int(re.sub(r"\D", "", cpus)),
            int(re.sub(r"\D", "", megabytes)), sum(int(n) for _, n in gpus), tuple(sorted({m for m, _ in gpus if m})),
        )  # fmt: skip
        known[here.name] = _larger(known.get(here.name, here), here)
    return sorted(known.values(), key=lambda partition: not partition.default)


def _larger(one: Partition, two: Partition) -> Partition:
    """Of two kinds of nodes in one partition, take the larger limits."""
    return Partition(one.name, one.default, one.minutes, max(one.cpus, two.cpus), max(one.megabytes, two.megabytes),
                     max(one.gpus, two.gpus), tuple(sorted({*one.models, *two.models})))  # fmt: skip


def minutes(limit: str) -> int | None:
    """Read SLURM's `days-hours:minutes:seconds` (or `infinite`) as minutes."""
    if not re.fullmatch(r"(\d+-)?[\d:]+", limit):
        return None
    days, _, clock = limit.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    seconds = sum(part * 60**power for power, part in enumerate(reversed(parts))) if len(parts) > 1 else parts[0] * 60
    return int(days or 0) * 1440 + seconds // 60
