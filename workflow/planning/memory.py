"""Estimate the memory of GPUs that run language models: their weights by the precision, and keys and values of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nan_merge.core.scoring import BENCHMARK_BATCH
from planning.costs import on_gpu
from planning.jobs import PlannedJob
from planning.sizes import Sizes

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}  # of a weight


def gpu_memory(sizes: Sizes, jobs: Sequence[PlannedJob]) -> list[dict[str, Any]]:
    """Return by suite of benchmarks the bytes of weights and of all that a job holds, and the GPUs over which it is spread."""
    waiting = [job for job in jobs if job.rule == "evaluate_benchmark" and job.to_do and on_gpu(sizes, job)]
    return [of_suite(sizes, suite) for suite in dict.fromkeys(job.wildcards["suite"] for job in waiting)]


def of_suite(sizes: Sizes, suite: str) -> dict[str, Any]:
    """Return the memory of one model of a suite.

    A token has keys and values of 2 L d numbers, a model 12 L d² weights (L layers of width d): 1 / (6 d) of the weights a token.
    ASSUME: as many heads of keys as of queries; with fewer it is less.
    """
    scoring, table = sizes.experiment.config.get("scoring", {}), sizes.table["memory"]
    precision, batch = scoring.get("precision", "float32"), scoring.get("batch_size", BENCHMARK_BATCH)
    weights = (sizes.checkpoint(suite) or 0) / table["stored"] * BYTES[precision]
    context = sizes.pictures(suite).get("context", table["context"])
    needed = weights * (1 + batch * context / (6 * sizes.model(suite)["width"]))
    about = {"suite": suite, "precision": precision, "batch_size": batch, "gpus": scoring.get("parallelize", 1)}
    return {**about, "weights": int(weights), "needed": int(needed)}
