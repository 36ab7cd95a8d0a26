"""Nested merges: of some experts of a suite or of other nested merges. Each is a model of its own that another can merge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from nan_merge.catalogue.files import known_names
from nan_merge.catalogue.methods import REFERENCES, STAGES, misnamed, reads_examples, unfit
from nan_merge.core.errors import UserError
from nan_merge.methods.recipe import DEFAULTS, operator_in

Experiment = Any  # experiment.Experiment, which imports this module

GROUP = "nested"  # of such rows in the tables
KEPT = (*STAGES, "reference", "data", "static")  # of its method
NEEDS = {  # keys of a method that needs more than the weights of what it merges
    "calibration": "needs data of every model that it merges",
    "learn": "learns on data of every model that it merges",
    "tune": "is tuned on validation",
}


class NestedMerges:
    """The nested merges of a run, by suite (or entry of `models`) and name, and the rows of the tables that they are."""

    def __init__(self, experiment: Experiment) -> None:
        """Read `nested:` of every suite; the first fault is a UserError."""
        self.by_suite: dict[str, dict[str, dict[str, Any]]] = {}
        self.rows: dict[str, dict[str, Any]] = {}
        for suite in dict.fromkeys([*experiment.suites, *experiment.models]):
            if experiment.owner(suite) == suite:
                self._read(experiment, suite)

    def _read(self, experiment: Experiment, suite: str) -> None:
        """Add the nested merges of one suite."""
        where = f"{experiment.file(suite)}: nested"
        entries = (experiment.models.get(suite) or experiment.suites[suite]).get("nested", {})
        experts = [*(experiment.named_experts(suite) or experiment.suites[suite]["tasks"])]
        for name, entry in entries.items():
            if name in experts:
                raise UserError(f"{where}: {name}: an expert of the suite has that name; choose another")
            if name in (*experiment.catalogue.hosts, *experiment.expert_rows):
                raise UserError(f"{where}: {name}: a method has that name; choose another")
            known_names(f"{where}: {name}: experts", entry["experts"], [*experts, *entries])
        self.by_suite[suite] = entries
        for name in entries:
            self._check_circle(suite, where, (name,))
            row = self._row(experiment, suite, name, f"{where}: {name}")
            if self.rows.setdefault(name, row) != row:
                raise UserError(f"{where}: {name}: another suite of the run has another nested merge of that name; rename one")

    def _check_circle(self, suite: str, where: str, trail: tuple[str, ...]) -> None:
        """Raise a UserError if the way down a `trail` of nested merges comes back to one of them."""
        for name in self.of(suite).get(trail[-1], {}).get("experts", ()):
            if name in trail:
                raise UserError(f"{where}: {' -> '.join([*trail, name])}: nested merges are circular; leave one out")
            self._check_circle(suite, where, (*trail, name))

    def _row(self, experiment: Experiment, suite: str, name: str, where: str) -> dict[str, Any]:
        """Return the row of a nested merge: its method as an entry of config/methods.yaml, with a label of its own."""
        entry = self.of(suite)[name]
        method, experts = entry["method"], entry["experts"]
        members = experiment.catalogue.members(method, f"{where}: method")
        if method not in members:
            found = f"'{method}' stands for {len(members)} methods"
            raise UserError(f"{where}: method: {found}; choose one, such as {next(iter(members))}")
        record = members[method]
        if reason := _refusal(method, record, experts) or self._refusal_of_space(experiment, suite, name, record):
            raise UserError(f"{where}: method: '{method}' {reason}; choose another")
        listed, repeated = ", ".join(experts), " and ".join(self.repeated(suite, name))
        return {
            **{key: record[key] for key in KEPT if key in record},
            "label": entry.get("label", f"{name}: {record['label']} of {listed}"),
            "summary": f"{method} of {listed}" + (f"; {repeated} is in it more than once" if repeated else ""),
            "group": GROUP,
            "nested": list(experts),
            "method": method,
        }

    def _refusal_of_space(self, experiment: Experiment, suite: str, name: str, record: Mapping[str, Any]) -> str:
        """Return why what a nested merge takes has no coordinates in the space of its method; empty if it has."""
        space, merges = (
            operator_in(record, "space")[0],
            [each for each in self.of(suite)[name]["experts"] if each in self.of(suite)],
        )
        if space == DEFAULTS["space"] or not (merges or suite in experiment.suites):
            return ""
        whole = f"'{merges[0]}' is a whole model" if merges else "a suite has whole models, into which adapters are folded"
        return f"needs LoRA adapters, and {whole}"

    def of(self, suite: str) -> Mapping[str, Mapping[str, Any]]:
        """Return the nested merges of a suite that makes merges, by name."""
        return self.by_suite.get(suite, {})

    def leaves(self, suite: str, name: str) -> Iterator[str]:
        """Yield the experts of a suite that go into a nested merge, one as often as there are ways to it; none for a method."""
        for each in self.of(suite).get(name, {}).get("experts", ()):
            yield from self.leaves(suite, each) if each in self.of(suite) else (each,)

    def repeated(self, suite: str, name: str) -> list[str]:
        """Return the experts that go into a nested merge in more than one way."""
        return [expert for expert, ways in Counter(self.leaves(suite, name)).items() if ways > 1]

    def notes(self) -> list[str]:
        """Return what is said of nested merges before the first job: experts that go into one in more than one way."""
        return [
            f"{suite}: nested: {name}: {' and '.join(experts)} is in it more than once"
            for suite in self.by_suite
            for name in self.of(suite)
            if (experts := self.repeated(suite, name))
        ]

    def last(self, suite: str) -> list[str]:
        """Return the nested merges of a suite that no other takes: they are rows of the tables, asked for or not."""
        taken = {name for entry in self.of(suite).values() for name in entry["experts"]}
        return [name for name in self.of(suite) if name not in taken]

    def among(self, listed: Iterable[str]) -> list[str]:
        """Return listed methods followed by the nested merges that become rows of their own accord."""
        return [*dict.fromkeys([*listed, *(name for suite in self.by_suite for name in self.last(suite))])]


def _refusal(method: str, record: Mapping[str, Any], experts: Sequence[str]) -> str:
    """Return why a method makes no nested merge; empty if it does."""
    if method in REFERENCES:
        return "merges nothing"
    if not record.get("static", True):
        return "makes a model for each task, not one"
    if needs := [reason for key, reason in NEEDS.items() if key in record]:
        return f"{needs[0]}, and a merge has none of its own"
    if reads_examples(record):
        return "reads numbers of training examples, and a merge has none of its own"
    reason = unfit(record, len(experts)) or misnamed(record, experts)
    return f"does not fit: {reason}" if reason else ""
