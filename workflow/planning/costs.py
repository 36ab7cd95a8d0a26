"""Estimate the time of jobs: the work of each by the config, times the prices of config/costs.yaml, and of the whole run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from nan_merge.catalogue.methods import OPERATORS
from nan_merge.methods.recipe import hyper_parameters, operator_in
from planning.jobs import PlannedJob
from planning.sizes import Sizes, collected_experts, of_subset, scored

DEVICES = ("cpu", "gpu")
FETCHES = ("fetch_asset", "fetch_model")


class Work(NamedTuple):
    """The work of a job after its start: forward passes of examples, merging, and remaining CPU seconds."""

    passes: float = 0.0
    merging: Mapping[str, float] = {"cpu": 0.0, "gpu": 0.0}  # seconds
    core: float = 0.0  # seconds


def seconds(sizes: Sizes, job: PlannedJob, gpu: bool) -> float:
    """Return how long a job takes, on a GPU or on one core."""
    device, work = DEVICES[gpu], WORK[job.rule](sizes, job) if job.rule in WORK else Work()
    found = _entry(sizes, job)["start"] + work.core + work.merging[device]
    if work.passes:
        precision = sizes.experiment.config.get("scoring", {}).get("precision", "float32") if gpu else "float32"
        a_pass = sizes.model(job.suite(sizes.experiment))[device] / 1000
        found += work.passes * a_pass * sizes.table["precision"].get(precision, 1.0)
    return float(found)


def on_gpu(sizes: Sizes, job: PlannedJob) -> bool:
    """Return whether the config sends a job to a GPU."""
    device: Any = sizes.experiment.config
    for part in str(_entry(sizes, job).get("gpu", "nowhere")).split("."):
        device = device.get(part, {})
    return str(device).startswith("cuda")


def _entry(sizes: Sizes, job: PlannedJob) -> dict[str, Any]:
    jobs = sizes.table["jobs"]
    return dict(jobs.get(job.rule, jobs["other"]))


def ends(jobs: Sequence[PlannedJob], times: Sequence[float]) -> list[float]:
    """Return when each job ends if it waits for its inputs only, in seconds."""
    makers = {file: number for number, job in enumerate(jobs) for file in job.outputs}

    @functools.cache
    def end(number: int) -> float:
        return times[number] + max((end(makers[file]) for file in jobs[number].inputs if file in makers), default=0.0)

    return [end(number) for number in range(len(jobs))]


def wall_time(jobs: Sequence[PlannedJob], times: Sequence[float], at_once: int) -> float:
    """Return the least time of a run with `at_once` jobs at a time, in seconds; downloads share the network."""
    fetches = sum(time for job, time in zip(jobs, times, strict=True) if job.rule in FETCHES)
    return max(sum(times) / at_once, fetches, *ends(jobs, times), 0.0)


# ---- the work of a job, by rule ------------------------------------------------------------------------------------------


def _fetch(sizes: Sizes, job: PlannedJob) -> Work:
    return Work(core=(sizes.asset(job.wildcards["asset"]) or 0) / sizes.table["network"])


def _dataset(sizes: Sizes, job: PlannedJob) -> Work:
    suite = job.suite(sizes.experiment)
    kind = "image" if "side" in sizes.experiment.suites[suite]["input"] else "text"
    return Work(core=sizes.dataset(suite, job.wildcards["task"]) * _entry(sizes, job)[kind] / 1000)


def _prepare(sizes: Sizes, job: PlannedJob) -> Work:
    suite = job.suite(sizes.experiment)
    copied = 0 if sizes.model(suite).get("linked") else sizes.gigabytes(suite)
    return Work(core=copied * _entry(sizes, job)["gigabyte"])


def _head(sizes: Sizes, job: PlannedJob) -> Work:
    prompts = sizes.experiment.class_prompts(job.wildcards["task"])
    count = len(prompts["classes"]) * len(prompts["templates"])
    return Work(core=count * sizes.model(job.suite(sizes.experiment))["text"] / 1000)


def _train(sizes: Sizes, job: PlannedJob) -> Work:
    suite, price = job.suite(sizes.experiment), sizes.table["training"]
    settings = sizes.experiment.suites[suite]["alignment" if job.rule == "align_checkpoint" else "finetune"]
    if job.rule == "finetune_premise":
        steps = sizes.experiment.premise_runs(suite)[job.wildcards["run"]]["steps"]
    elif job.rule == "finetune_checkpoint":
        steps = sizes.experiment.training(suite, job.wildcards["task"], int(job.wildcards["seed"]))["steps"]
    else:
        steps = settings["steps"] * (sizes.experts(suite) if job.rule == "finetune_joint" else 1)
    return Work(steps * settings["batch_size"] * price["passes"], core=steps * sizes.gigabytes(suite) * price["gigabyte"])


def _calibration(sizes: Sizes, job: PlannedJob) -> Work:
    record = sizes.experiment.calibration[job.wildcards["calibration"]]
    passes = sizes.table["calibration"][record["kind"]]["passes"]
    if isinstance(passes, Mapping):
        estimator = record.get("estimator", next(iter(passes)))
        classes = sizes.experiment.class_prompts(job.wildcards["task"])["classes"] if estimator == "exact" else [""]
        passes = passes[estimator] * len(classes)
    return Work(record["examples"] * passes * collected_experts(sizes, job))


def _learn(sizes: Sizes, job: PlannedJob) -> Work:
    suite, price = job.suite(sizes.experiment), sizes.table["learning"]
    settings = {**sizes.experiment.methods[job.wildcards["method"]]["learn"], **sizes.experiment.suites[suite].get("learn", {})}
    count, steps = sizes.experts(suite), settings["steps"]
    merges = steps * sizes.gigabytes(suite, count) * price["gigabyte"]
    return Work(steps * settings["batch_size"] * count * price["passes"], core=merges)


def _measure(sizes: Sizes, job: PlannedJob) -> Work:
    return Work(core=_measured(sizes, job) * sizes.table["merges"]["measure"])


def _measured(sizes: Sizes, job: PlannedJob) -> float:
    """Return the gigabytes of the base and of the experts, of a suite or of a nested merge, that a job measures."""
    suite = job.suite(sizes.experiment)
    return sizes.gigabytes(suite, sizes.experts(suite, job.wildcards.get("nested", "").strip("/")) + 1)


def _processed(sizes: Sizes, job: PlannedJob) -> Work:
    suite = job.suite(sizes.experiment)
    method = sizes.experiment.needing(sizes.experiment.processed)[job.wildcards["processed"]]
    prices, record = sizes.table["merges"], sizes.experiment.method(method)
    a_gigabyte = prices["measure"] + rate(prices, sizes.model(suite)["width"] / 1000, record, "preprocess")["cpu"]
    return Work(core=_measured(sizes, job) * a_gigabyte)


def _premise(sizes: Sizes, job: PlannedJob) -> Work:
    suite = job.suite(sizes.experiment)
    return Work(sizes.examples(suite, sizes.experiment.premise_runs(suite)[job.wildcards["run"]]["task"], "validation"))


def _merge(sizes: Sizes, job: PlannedJob) -> Work:
    suite, method = job.suite(sizes.experiment), job.wildcards["method"]
    return Work(merging=_of_method(sizes, suite, method, sizes.experts(suite, method)))


def _of_method(sizes: Sizes, suite: str, method: str, experts: int) -> dict[str, float]:
    """Return the seconds that a method takes to merge so many experts, by device."""
    read, record = sizes.gigabytes(suite, experts + 1), sizes.experiment.method(method)
    stages = ("preprocess", "combine", "postprocess")
    rates = [rate(sizes.table["merges"], sizes.model(suite)["width"] / 1000, record, stage) for stage in stages]
    return {device: read * sum(each[device] for each in rates) for device in DEVICES}


def _subset(sizes: Sizes, job: PlannedJob) -> Work:
    """Count every merge of a subset, and the test examples that each is scored on."""
    chosen, methods = of_subset(sizes, job)
    merges = [_of_method(sizes, job.wildcards["suite"], method, len(chosen)) for method in methods]
    passes = len(methods) * scored(sizes, job, chosen)
    return Work(passes, {device: sum(each[device] for each in merges) for device in DEVICES})


def rate(prices: Mapping[str, Any], width: float, record: Mapping[str, Any], stage: str) -> dict[str, float]:
    """Return the seconds per GB of a method's operator of one stage, by device; `width` in thousands of columns."""
    name, given = operator_in(record, stage)
    operator, factor = OPERATORS[stage][name], 1.0
    if name in prices["steps"]:
        found, factor = prices["steps"][name], width * given.get("steps", hyper_parameters(operator)["steps"][1])
    elif name in prices["matrices"]:
        found, factor = prices["matrices"][name], width
    else:
        found = prices["operators"].get(name, prices["whole" if getattr(operator, "whole", False) else "piece"])
    return {device: factor * found[device] for device in DEVICES}


def _convert(sizes: Sizes, job: PlannedJob) -> Work:
    return Work(core=sizes.gigabytes(job.wildcards["suite"]) * _entry(sizes, job)["gigabyte"])


def _benchmark(sizes: Sizes, job: PlannedJob) -> Work:
    """Count a pass a prompt and a document, and the tokens that are generated."""
    suite = job.wildcards["suite"]
    entries = [sizes.experiment.tasks[task]["harness"] for task in sizes.experiment.groups(suite)[job.wildcards["group"]]]
    price, loaded = sizes.table["generation"], sizes.gigabytes(suite) * _entry(sizes, job)["gigabyte"]
    prompt = sizes.pictures(suite).get("passes", 1)
    passes = (entry["examples"] * (prompt + entry.get("generated", 0) * price) + entry.get("documents", 0) for entry in entries)
    return Work(sum(passes), core=loaded)


WORK: dict[str, Callable[[Sizes, PlannedJob], Work]] = {
    "fetch_asset": _fetch,
    "prepare_dataset": _dataset,
    **dict.fromkeys(("prepare_checkpoint", "prepare_expert"), _prepare),
    "build_head": _head,
    **dict.fromkeys(
        ("align_checkpoint", "finetune_checkpoint", "finetune_language", "finetune_premise", "finetune_joint"), _train
    ),
    **dict.fromkeys(("collect_calibration", "collect_jointly"), _calibration),
    "learn_coefficients": _learn,
    **dict.fromkeys(("measure_weights", "measure_threshold"), _measure),
    "measure_processed": _processed,
    "measure_premise": _premise,
    **dict.fromkeys(("merge_checkpoints", "merge_candidate", "merge_for_task"), _merge),
    **dict.fromkeys(("evaluate_checkpoint", "evaluate_candidate"), lambda sizes, job: Work(scored(sizes, job))),
    "score_subset": _subset,
    "convert_checkpoint": _convert,
    **dict.fromkeys(("evaluate_benchmark", "cross_check"), _benchmark),
}
