"""What runs the models of a benchmark: lm_eval, or `models.retrieval`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nan_merge.models import retrieval
from nan_merge.models.harness.answers import Sample
from nan_merge.models.harness.backends import load_model
from nan_merge.models.harness.run import run_task
from nan_merge.models.harness.tasks import Benchmark, load_tasks
from nan_merge.models.own_tasks import definition, more_scores


class Runner(NamedTuple):
    """How tasks are read, a model is loaded and asked, and what is counted besides the metric.

    `identity` is what the answers depend on besides model, data and settings.
    """

    load_tasks: Callable[[Benchmark, Path], Mapping[str, Any]]
    load_model: Callable[[Path, str, str, Mapping[str, Any], bool], Any]
    run_task: Callable[[Any, Any, Benchmark, Mapping[str, Any], int], list[Sample]]
    more_scores: Callable[[Benchmark, Sequence[Sample]], list[dict[str, Any]]]
    identity: Callable[[Benchmark], dict[str, Any]]


def _more_scores(benchmark: Benchmark, samples: Sequence[Sample]) -> list[dict[str, Any]]:
    return more_scores(benchmark.harness["folder"], samples)


def _identity(benchmark: Benchmark) -> dict[str, Any]:
    harness = {key: benchmark.harness.get(key) for key in ("folder", "num_fewshot", "metric", "filter")}
    return {"harness": harness, "definition": definition(benchmark.harness["folder"])}


LM_EVAL = Runner(load_tasks, load_model, run_task, _more_scores, _identity)
RETRIEVAL = Runner(retrieval.load_tasks, retrieval.load_model, retrieval.run_task, retrieval.more_scores, retrieval.identity)


def runner_of(benchmark: Benchmark) -> Runner:
    """Return what runs a benchmark: it has `retrieval` in its entry `harness:`, or it is one of lm_eval."""
    return RETRIEVAL if "retrieval" in benchmark.harness else LM_EVAL
