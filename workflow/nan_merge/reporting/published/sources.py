"""Measurements on the suites of a printed table, by collection of checkpoints."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from nan_merge.reporting.published.numbers import AVERAGE, MEANS, NORMALISED, Printed
from nan_merge.reporting.statistics import Estimate, summarise
from nan_merge.reporting.study import Study

UNNAMED = "no collection"  # of a suite without `collection`; it equals no printed collection, so no verdict is given


@dataclass
class Source:
    """Measured suites of one collection, at most one for each printed suite, with their estimates by method and task."""

    collection: str
    studies: dict[str, Study] = field(default_factory=dict)
    estimates: dict[str, dict[str, dict[str, Estimate]]] = field(default_factory=dict)

    def estimate(self, suite: str, method: str, task: str) -> Estimate:
        """Return the measured estimate, or one without value and reason where the method is not in the run."""
        return self.estimates.get(suite, {}).get(method, {}).get(task, Estimate(None))

    def shows(self, keys: Iterable[tuple[str, str]], method: str, skipped: bool = True) -> bool:
        """Return whether any of these suites and tasks has a number of a method or, with `skipped`, a reason for skipping it."""
        estimates = [self.estimate(suite, method, task) for suite, task in keys]
        return any(e.value is not None or (skipped and e.reason.startswith("skipped")) for e in estimates)

    def merges(self, method: str) -> bool:
        """Return whether a method is a merge, and no reference such as the base or an individual model."""
        found = [each for study in self.studies.values() for each in study.methods if each["id"] == method]
        return any(each.get("group") != "reference" for each in found)

    def examples(self, suite: str, method: str, task: str) -> int | None:
        """Return the number of test examples behind an estimate."""
        members = self.studies[suite].members(method)
        n = {row.task: row.n for row in self.studies[suite].reported() if row.method in members}
        return (sum(n.values()) or None) if task in MEANS else n.get(task)


def sources(suites: Collection[str], studies: Iterable[Study], published: Iterable[Printed]) -> list[Source]:
    """Return the measurements on printed suites by collection; a second suite of a collection is a source of its own."""
    tasks: dict[str, set[str]] = {}
    for number in published:
        tasks.setdefault(number.suite, set()).update({number.task} - MEANS.keys())
    found: list[Source] = []
    for study in studies:
        name, collection = study.suite.get("published", ""), study.suite.get("collection", {}).get("id", UNNAMED)
        if name not in suites:
            continue
        free = (source for source in found if source.collection == collection and name not in source.studies)
        source = next(free, None) or Source(collection)
        found += [source] if source not in found else []
        source.studies[name] = study
        source.estimates[name] = _estimates(study, tasks.get(name, set()))
    return found


def _estimates(study: Study, printed: set[str]) -> dict[str, dict[str, Estimate]]:
    """Return the estimates of a suite by method and task; averages only where they are over the printed tasks."""
    found = {}
    reason = _incomparable(study, printed)
    for row in summarise(study):
        means = {AVERAGE: row.average, NORMALISED: row.normalised}
        if reason:
            means = {name: Estimate(None, reason=reason) for name, mean in means.items() if mean.value is not None}
        found[row.method["id"]] = {**row.tasks, **means}
    return found


def _incomparable(study: Study, printed: set[str]) -> str:
    """Return the reason why averages of a suite cannot be compared (other tasks than in print), or an empty text."""
    skipped = [entry["task"] for entry in study.suite.get("skipped", [])]
    if skipped:
        return f"no average to compare, {', '.join(map(study.label, skipped))} was skipped"
    here = {task["id"] for task in study.tasks}
    lacks, more = sorted(printed - here), sorted(here - printed)
    if not printed or not lacks + more:
        return ""
    parts = [f"lacks {', '.join(lacks)}"] * bool(lacks) + [f"also has {', '.join(map(study.label, more))}"] * bool(more)
    return f"no average to compare, the suite {study.suite['id']} {' and '.join(parts)}"
