"""Sum up a run: assets to fetch, bytes to write, jobs, time, and whether it fits the disk."""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nan_merge.assets.http import Remote
from nan_merge.assets.hub import Repository
from nan_merge.assets.store import missing
from nan_merge.core.disk import MARGIN, human
from nan_merge.core.errors import UserError
from planning.costs import ends, on_gpu, seconds, wall_time
from planning.jobs import PlannedJob
from planning.memory import gpu_memory
from planning.sizes import Sizes, held

if TYPE_CHECKING:
    from experiment.experiment import Experiment

STORE = Path("results/downloads")
FOLDERS = ("assets", "models", "datasets", "checkpoints", "calibration", "merged")  # large ones of results/; all else is `other`


def overview(sizes: Sizes, jobs: Sequence[PlannedJob], at_once: int) -> dict[str, Any]:
    """Return the whole plan as JSON has it: assets, disk, jobs and hours."""
    return {
        "directory": str(Path.cwd()),
        "jobs_at_once": at_once,
        "assets": assets(sizes, jobs),
        "update_lock": lock_command(_unlocked(sizes, jobs)),
        "skipped": skipped(sizes.experiment),
        "disk": disk(sizes, jobs, at_once),
        "jobs": by_rule(sizes, jobs),
        "gpu_memory": gpu_memory(sizes, jobs),
        "time": times(sizes, jobs, at_once),
    }


def skipped(experiment: Experiment) -> dict[str, dict[str, str]]:
    """Return the tasks and the methods that each suite, or entry of `models`, goes without, with the reason."""
    found = {}
    for name in (*experiment.suites, *experiment.models):
        methods = {m: why for m, why in experiment.skipped_methods(name).items() if m in experiment.config["methods"]}
        if reasons := {**experiment.skipped.get(name, {}), **methods}:
            found[name] = reasons
    return found


def _unlocked(sizes: Sizes, jobs: Sequence[PlannedJob]) -> list[str]:
    """Return the assets that are to be fetched and not locked: what a run stops before."""
    return sizes.experiment.unlocked(job.wildcards["asset"] for job in jobs if job.rule == "fetch_asset" and job.to_do)


def lock_command(unlocked: Sequence[str]) -> str | None:
    """Return the one command that locks assets."""
    return f"nan-merge lock {' '.join(unlocked)}" if unlocked else None


# ---- assets -----------------------------------------------------------------------------------------------------------


def assets(sizes: Sizes, jobs: Sequence[PlannedJob]) -> list[dict[str, Any]]:
    """Return every asset and every model of the hub that the run has or fetches: where from, bytes, how exact."""
    unlocked, found = set(_unlocked(sizes, jobs)), []
    for job in jobs:
        if job.rule == "fetch_asset":
            name = job.wildcards["asset"]
            size = _to_fetch(sizes, name) if job.to_do else held(job.outputs[0])
            entry = {"source": _source(sizes.experiment.assets[name]), "bytes": size, "locked": name not in unlocked}
        elif job.rule == "fetch_model":
            name = f"{job.wildcards['suite']}/{job.wildcards['model']}"
            place = sizes.experiment.own_models(job.wildcards["suite"])[job.wildcards["model"]]
            entry = {"source": f"hub {place}", "bytes": None if job.to_do else held(job.outputs[0]), "locked": True}
        else:
            continue
        found.append({"asset": name, **entry, "exact": entry["locked"] and entry["bytes"] is not None, "fetch": job.to_do})
    return sorted(found, key=lambda entry: str(entry["asset"]))


def _to_fetch(sizes: Sizes, asset: str) -> int | None:
    """Return the bytes that have yet to come: all, less what an earlier run left of files of the hub."""
    pinned = sizes.experiment.lock.get(asset, {})
    if "files" not in pinned:
        return sizes.asset(asset)
    remotes = [Remote("", name, file["size"], file["sha256"]) for name, file in pinned["files"].items()]
    return sum(missing(remote, STORE / str(remote.digest)) for remote in remotes)


def _source(spec: Any) -> str:
    """Say where an asset comes from."""
    if spec["kind"] == "hub":
        return f"hub {str(Repository.of(spec)).removesuffix('@main')}"
    name = next(str(spec[key]) for key in ("package", "url", "path") if key in spec)
    return " ".join(filter(None, (spec["kind"], name, str(spec.get("version", "")))))


# ---- the disk ---------------------------------------------------------------------------------------------------------


def disk(sizes: Sizes, jobs: Sequence[PlannedJob], at_once: int) -> dict[str, Any]:
    """Return by folder of results/ what is there, what comes and in how many outputs, and what each disk has free."""
    rows = {name: {"there": 0, "to_come": 0, "outputs": 0, "unknown": 0} for name in (*FOLDERS, "other")}
    temporary: dict[str, int] = {}
    for job in jobs:
        row = rows[_folder(job)]
        there = sum(map(held, job.outputs))
        row["there"] += there
        if job.to_do:
            size = sizes.output(job)
            row["outputs"] += len(job.outputs)
            row["unknown"] += size is None
            if job.is_temporary(sizes.experiment):
                temporary[job.outputs[0]] = size or 0
            else:
                row["to_come"] += max(0, (size or 0) - there)  # an output that is made again is removed first
    used = [sum(temporary.get(file, 0) for file in job.inputs) for job in jobs if job.to_do]
    peak = sorted(used, reverse=True)[:at_once]  # jobs that use temporary files come first, and then these are removed
    rows["temporary"] = {"there": 0, "to_come": sum(peak), "outputs": len(temporary), "unknown": 0}
    kept = {name: row for name, row in rows.items() if any(row.values())}
    return {"folders": kept, "disks": _disks(kept)}


def _folder(job: PlannedJob) -> str:
    name = Path(job.outputs[0]).parts[1]
    return name if name in FOLDERS else "other"


def _disks(rows: dict[str, dict[str, int]]) -> list[dict[str, Any]]:
    """Return what every disk below results/ has free and has to hold; a folder may be a link to another disk."""
    needs: dict[int, list[Any]] = defaultdict(lambda: [[], 0, Path(".")])
    for name, row in rows.items():
        there = next(path for path in (Path("results", name), Path("results"), Path(".")) if path.exists())
        found = needs[there.stat().st_dev]
        found[0].append(name)
        found[1] += row["to_come"]
        found[2] = there
    return [
        {"holds": names, "needed": needed, "free": (free := shutil.disk_usage(place).free), "fits": needed + MARGIN <= free}
        for names, needed, place in needs.values()
    ]


def check_fits(plan: dict[str, Any]) -> None:
    """Raise a UserError if a disk cannot hold what the run writes."""
    for found in plan["disk"]["disks"]:
        if not found["fits"]:
            short = found["needed"] + MARGIN - found["free"]
            raise UserError(
                f"the run does not fit the disk: it writes about {human(found['needed'])} to results/"
                f" ({', '.join(found['holds'])}), {human(found['free'])} are free in {plan['directory']}; {human(short)} are"
                " missing. Free some, run elsewhere with --directory, or take fewer suites, methods or seeds in the config"
            )


# ---- jobs and time ----------------------------------------------------------------------------------------------------


def by_rule(sizes: Sizes, jobs: Sequence[PlannedJob]) -> list[dict[str, Any]]:
    """Return by rule how many jobs are to do and done, and the seconds of cores and of GPUs that those to do take."""
    to_do, done = (Counter(job.rule for job in jobs if job.to_do is state) for state in (True, False))
    taken: dict[str, dict[str, float]] = defaultdict(lambda: {"core": 0.0, "gpu": 0.0})
    for job in jobs:
        if job.to_do:
            gpu = on_gpu(sizes, job)
            taken[job.rule]["gpu" if gpu else "core"] += seconds(sizes, job, gpu)
    return [
        {"rule": rule, "to_do": to_do[rule], "done": done[rule]}
        | {f"{device}_seconds": round(taken[rule][device], 1) for device in ("core", "gpu")}
        for rule in _in_order(jobs)
    ]


def _in_order(jobs: Sequence[PlannedJob]) -> list[str]:
    """Return the rules in the order of a run: those that need least before them first."""
    deepest: dict[str, float] = {}
    for job, depth in zip(jobs, ends(jobs, [1.0] * len(jobs)), strict=True):
        deepest[job.rule] = max(deepest.get(job.rule, 0), depth)
    return sorted(deepest, key=lambda rule: (deepest[rule], rule))


def times(sizes: Sizes, jobs: Sequence[PlannedJob], at_once: int) -> dict[str, float]:
    """Return the seconds that the run takes of cores, of GPUs, and from its start to its end."""
    waiting = [job for job in jobs if job.to_do]
    found = [(seconds(sizes, job, gpu := on_gpu(sizes, job)), gpu) for job in waiting]
    spent = {
        f"{name}_seconds": sum(time for time, used in found if used is gpu) for name, gpu in (("core", False), ("gpu", True))
    }
    spent["wall_seconds"] = wall_time(waiting, [time for time, _ in found], at_once)
    return {name: round(time, 1) for name, time in spent.items()}
