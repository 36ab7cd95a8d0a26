"""A scored model: its scores with intervals, as the tables have them, and the digests of what was scored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nan_merge.reporting.statistics import Estimate, Summary, summarise
from nan_merge.reporting.study import Score, Study


@dataclass(frozen=True)
class ScoredTask:
    """The score of one task by its metric, a fraction, with its 95 % interval; `record` says what the task is."""

    record: dict[str, Any]
    score: Score
    estimate: Estimate


@dataclass(frozen=True)
class ScoredModel:
    """One model of one seed; `jobs` say where its scores come from."""

    suite: dict[str, Any]
    method: dict[str, Any]
    seed: int
    tasks: list[ScoredTask]
    jobs: list[dict[str, Any]]

    @property
    def digests(self) -> list[str]:
        """XXH3-128 of the folder of each checkpoint that was scored."""
        return digests(self.jobs)

    @property
    def time(self) -> int:
        """When its last score was written, in seconds of the epoch."""
        return max(job["time"] for job in self.jobs)


def is_one_model(method: Mapping[str, Any]) -> bool:
    """Return whether a method is one model for all tasks: not the individual experts, nor a merge for each task."""
    return bool(method.get("static", True))


def scored_model(study: Study, method: Mapping[str, Any], seed: int, jobs: Sequence[dict[str, Any]]) -> ScoredModel:
    """Return the scores of one method for one seed."""
    summary = summary_of(study, method, [seed])
    scores = {score.task: score for score in study.reported() if (score.method, score.seed) == (method["id"], seed)}
    tasks = [ScoredTask(task, scores[task["id"]], summary.tasks[task["id"]]) for task in study.tasks]
    return ScoredModel(study.suite, dict(method), seed, tasks, list(jobs))


def summary_of(study: Study, method: Mapping[str, Any], seeds: Sequence[int]) -> Summary:
    """Return averages and intervals of one method over the given seeds."""
    scores = [score for score in study.scores if score.seed in seeds]
    return summarise(Study({**study.suite, "seeds": list(seeds)}, [dict(method)], scores))[0]


def digests(jobs: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the XXH3-128 of the folder of each checkpoint of some jobs, each once."""
    return list(dict.fromkeys(job["xxh3_128"][folder] for job in jobs for folder in job["checkpoints"]))
