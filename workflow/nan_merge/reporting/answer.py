"""The question of a run and its answer, three sentences a suite, each made from the numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from nan_merge.reporting.formats import interval, number_of, percent
from nan_merge.reporting.paired_tests import FAILS, HOLDS, NOT_TESTED, SAME, verdict
from nan_merge.reporting.pairs import AVERAGE, Standing
from nan_merge.reporting.statistics import AVERAGING, BASE, Summary, best_merge, summarise
from nan_merge.reporting.study import Study
from nan_merge.reporting.table_parts import pairs_of

NAMED = 4  # merges that a sentence lists; more are counted
NAN_GROUPS = ("nan", "scan")


def question(has_nan: bool) -> str:
    """Return what the run asks; `has_nan` says whether methods with coefficients from norms are in it."""
    asked = "How close does one merged model come to the experts that it is made of"
    return f"{asked}, and do coefficients from norms (NAN, arXiv 2505.16148) help?" if has_nan else f"{asked}?"


def answer(study: Study, standings: Mapping[str, Standing]) -> list[str]:
    """Return the answer of a suite: how good the best merge is, what norms do, and which merges are not told apart from it."""
    best, merges = best_merge(study)
    if best is None:
        return ["No merge was scored on every task of this suite."]
    return [_level(study, best, merges), _norms(study), _told_apart(study, standings[AVERAGE], best)]


def _level(study: Study, best: Summary, merges: int) -> str:
    named = {BASE, AVERAGING, *study.uppers}
    others = [row for row in summarise(study) if row.method["id"] in named and row.average.value is not None]
    others.sort(key=lambda row: row.average.value or 0.0)
    compared = ", ".join(f"{study.label(row.method['id'])} {_estimate(row)}" for row in others)
    what = f"The best of {merges} merges, {study.label(best.method['id'])}," if merges > 1 else study.label(best.method["id"])
    text = f"{what} has {_estimate(best)} on average over {number_of(len(study.tasks), 'task')}"
    return f"{text}, beside {compared}." if compared else f"{text}."


def _estimate(row: Summary) -> str:
    return f"{percent(row.average.value)} % {interval(row.average.low, row.average.high)}".strip()


def _norms(study: Study) -> str:
    """Count the verdicts on methods with coefficients from norms against their hosts."""
    of_norms = {method["id"] for method in study.methods if method.get("group") in NAN_GROUPS}
    rows = [row for kind in ("host", "scan") for row in pairs_of(study, kind) if row["method"] in of_norms]
    verdicts = Counter(verdict(row) for row in rows if not row.get("same_as"))
    raised, lowered, same = (verdicts[each] for each in (HOLDS, FAILS, SAME))
    tested = sum(verdicts.values()) - verdicts[NOT_TESTED]
    if not tested:
        return "No method with coefficients from norms was compared with its host."
    return (
        f"In {number_of(tested, 'comparison')} of a method with its host, coefficients from norms raise the average in {raised} "
        f"and lower it in {lowered}; {same} showed no difference, and {tested - raised - lowered - same} could not be decided."
    )


def _told_apart(study: Study, standing: Standing, best: Summary) -> str:
    if standing.untested:
        return standing.gap
    alike = [name for name in [*standing.best, *standing.alike] if name != best.method["id"]]
    leader = study.label(best.method["id"])
    if not alike:
        return f"Every other merge is told apart from {leader} by a paired test, adjusted for all pairs of merges."
    listed = ", ".join(study.label(name) for name in alike[:NAMED])
    more = f" and {len(alike) - NAMED} more" if len(alike) > NAMED else ""
    count = number_of(len(alike), "merge")
    return f"{count} cannot be told apart from {leader} by a paired test, adjusted for all pairs: {listed}{more}."
