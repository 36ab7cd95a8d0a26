"""Every two rows of a suite on the same examples: differences by task, and the merges that cannot be told apart from the best."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, NamedTuple

from nan_merge.data.metrics import MEANS
from nan_merge.reporting import paired_difference
from nan_merge.reporting.paired_tests import compare_pair, number
from nan_merge.reporting.statistics import LEVEL, Summary, summarise
from nan_merge.reporting.study import Study

MOST_PAIRS = 800  # of a suite; with more, or with examples in groups, only the planned comparisons are computed
AVERAGE = "average"


class Pair(NamedTuple):
    """Differences of one method to another on a task or on the average of all, as fractions with 95 % limits.

    `gained` and `lost` count the predictions of which only this or only the other method's is correct, `changed` those that
    differ, each of `n`. `p_holm` is that of a planned comparison, None for any other pair.
    """

    method: str
    against: str
    task: str
    difference: float
    low: float
    high: float
    gained: int
    lost: int
    changed: int
    n: int
    p_holm: float | None = None


NO_ANSWERS = "answers to the single examples are missing, or do not add up to the metric"


@dataclass
class Standing:
    """The merges of the highest value in a column, and the others that a paired test cannot tell apart from one of them.

    `untested` is the reason where there was no test.
    """

    best: list[str]
    alike: list[str] = field(default_factory=list)
    untested: str = ""

    @property
    def gap(self) -> str:
        """The sentence that says why there was no test; empty where there was one."""
        return self.untested and f"Which merges cannot be told apart from the best was not tested: {self.untested}."


def all_pairs(study: Study, answers: Mapping[tuple, Any]) -> list[Pair]:
    """Return the comparisons of every two rows that were scored, on the average and on each task, in the order of the rows.

    The average of a planned comparison has the interval and the p of `comparisons.tsv`, of several kinds those of the first.
    A row that is the mean of several draws is compared with rows that are not.
    """
    planned = {(row["method"], row["against"]): row for row in reversed(study.comparisons) if row["task"] == AVERAGE}
    tasks = _compared_tasks(study, answers)
    columns = {**({AVERAGE: tasks} if len(tasks) > 1 else {}), **{t["id"]: [t["id"]] for t in study.tasks if t["id"] in tasks}}
    return [
        pair
        for one, other in _wanted(study, answers, planned)
        for column, names in columns.items()
        if (pair := _pair(study, answers, (one, other), column, names, planned))
    ]


def are_all(study: Study) -> bool:
    """Return whether every two rows are compared; otherwise only the planned comparisons are."""
    return not study.grouped and len(study.methods) * (len(study.methods) - 1) // 2 <= MOST_PAIRS


def standings(study: Study, answers: Mapping[tuple, Any]) -> dict[str, Standing]:
    """Return by task and for the average which merges are best, and which cannot be told apart from them.

    The best is chosen on the same examples, so p is multiplied by the number of all pairs of merges (Bonferroni): true for
    any two of them holds for the chosen one. Where that many comparisons leave nothing to find, and where
    answers to examples do not add up to the metric, only the best is named.
    """
    rows = [row for row in summarise(study) if row.method.get("group") != "reference" and not row.average.draws]
    tasks = _compared_tasks(study, answers)
    columns = {AVERAGE: tasks if len(tasks) == len(study.tasks) else [], **{task["id"]: [task["id"]] for task in study.tasks}}
    return {column: _standing(study, answers, rows, column, names) for column, names in columns.items()}


def _standing(study: Study, answers: Mapping[tuple, Any], rows: list[Summary], column: str, tasks: list[str]) -> Standing:
    estimates = {row.method["id"]: row.average if column == AVERAGE else row.tasks[column] for row in rows}
    values = {name: estimate.value for name, estimate in estimates.items() if estimate.value is not None}
    top = max(values.values(), default=0.0)
    best = [name for name, value in values.items() if value == top]
    pairs = len(values) * (len(values) - 1) // 2
    comparable = tasks and all(study.metric(task) in MEANS and task in _compared_tasks(study, answers) for task in tasks)
    if not best or not comparable:
        return Standing(best, untested=NO_ANSWERS)
    if pairs / (1 + paired_difference.FLIPS) >= 1 - LEVEL:
        flips = f"{paired_difference.FLIPS:,} sign flips"
        return Standing(best, untested=f"p is multiplied by the {pairs:,} pairs of merges, which {flips} are too few for")
    found = {
        name: compare_pair(answers, {"suite": study.suite["id"], "method": best[0], "against": name}, tasks, [1] * len(tasks))
        for name in values
        if name not in best
    }
    alike = [name for name, numbers in found.items() if numbers and numbers["p"] * pairs >= 1 - LEVEL]
    return Standing(best, alike)


def _compared_tasks(study: Study, answers: Mapping[tuple, Any]) -> list[str]:
    """Return the tasks with predictions, sorted as in `compare_methods`, so that the same draws are made."""
    suite = study.suite["id"]
    known = {task for name, _, task, _ in answers if name == suite}
    return sorted(task["id"] for task in study.tasks if task["id"] in known)


def _wanted(study: Study, answers: Mapping[tuple, Any], planned: Mapping[tuple[str, str], Any]) -> Iterator[tuple[str, str]]:
    """Yield the pairs to compare, a planned one in its direction, any other as the later row against the earlier one."""
    scored = {method for suite, method, _, _ in answers if suite == study.suite["id"]}
    rows = [method for method in study.methods if scored.issuperset(study.members(method["id"]))]
    several = {method["id"] for method in rows if len(study.members(method["id"])) > 1}
    for earlier, later in combinations([method["id"] for method in rows], 2):
        pair = (earlier, later) if (earlier, later) in planned or later in several else (later, earlier)
        if pair[0] not in several and (pair in planned or are_all(study)):
            yield pair


def _pair(
    study: Study, answers: Mapping[tuple, Any], sides: tuple[str, str], column: str, tasks: Sequence[str], planned: Mapping
) -> Pair | None:
    draws = study.members(sides[1])
    pair: dict[str, Any] = {"suite": study.suite["id"], "method": sides[0], "against": sides[1]}
    pair |= {"draws": draws} if draws != [sides[1]] else {}
    found = compare_pair(answers, pair, tasks, [1] * len(tasks), tested=False)
    if not found:
        return None
    difference, low, high, p_holm = found["difference"], found["low"], found["high"], None
    row = planned.get(sides, {}) if column == AVERAGE else {}
    if number(row, "difference") is not None:
        difference, low, high, p_holm = (number(row, key) for key in ("difference", "low", "high", "p_holm"))
    gained, lost = found["gained"], found["discordant"] - found["gained"]
    return Pair(*sides, column, difference, low, high, gained, lost, found["changed"], found["n"], p_holm)
