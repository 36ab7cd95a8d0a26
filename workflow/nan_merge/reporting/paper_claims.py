"""Claims of papers, registered before a run, judged by its numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scipy.stats import t

from nan_merge.reporting import norm_data
from nan_merge.reporting.checks import Check
from nan_merge.reporting.finding import EXPONENT, METRICS, UNTESTABLE, VERDICTS, Effect, Finding
from nan_merge.reporting.formats import number_of, p_value, signed_number
from nan_merge.reporting.paired_tests import ITSELF, number
from nan_merge.reporting.statistics import LEVEL, holm
from nan_merge.reporting.study import Study


def findings(studies: Sequence[Study], registered: Mapping[str, Any]) -> list[Finding]:
    """Return every hypothesis of every claim, judged; p is adjusted over the hypotheses of a suite, the same one counted once."""
    by_suite = {study.suite["id"]: study for study in studies}
    found = [finding for claim in registered["claims"] for finding in _of_claim(claim, by_suite, registered)]
    for suite in by_suite:
        tested = {each.key: each.effect.p for each in found if each.suite == suite and each.effect}
        adjusted = dict(zip(tested, holm([*tested.values()]), strict=True))
        for each in found:
            if each.suite == suite and each.effect:
                each.p, each.family = adjusted[each.key], len(tested)
    return found


def _of_claim(claim: Mapping[str, Any], by_suite: Mapping[str, Study], registered: Mapping[str, Any]) -> Iterator[Finding]:
    kind = EXPONENT if "measure" in claim else "points"
    smallest = claim.get("smallest_effect", registered["smallest_effect"][kind])
    if kind == EXPONENT:
        for suite in claim["suites"]:
            yield from _exponents(claim, by_suite[suite], smallest)
    for contrast in claim["contrasts"]:
        study, method, against = by_suite[contrast["suite"]], contrast["method"], contrast["against"]
        name = f"{study.label(method)} − {study.label(against)}"
        for metric in claim.get("metrics", ["average"]):
            finding = Finding(claim, contrast["suite"], method, against, name, metric, smallest)
            finding.missing = contrast.get("missing", "")
            if not finding.missing:
                finding.effect, finding.missing = _difference(study, finding)
            yield finding


def _difference(study: Study, finding: Finding) -> tuple[Effect | None, str]:
    """Return the effect of a contrast in points, or the reason why there is none."""
    pair = (finding.method, finding.against, finding.metric)
    row = next((row for row in study.comparisons if (row["method"], row["against"], row["task"]) == pair), None)
    if row is None:
        unknown = "the training-set size of a task is unknown" if finding.metric != "average" else "the pair was not compared"
        return None, unknown
    numbers = [number(row, name) for name in ("difference", "low", "high", "within")]
    if any(value is None for value in numbers):
        return None, "no seed has scores of both methods on every task"
    seeds = len(row["seeds"].split())
    terms = seeds * int(number(row, "draws") or 1)
    difference, low, high, within = (100 * (value or 0.0) for value in numbers)
    p = 1.0 if row.get("same_as") == ITSELF else float(row["p"])
    return Effect(difference, low, high, within, p, int(row["n"]) // terms, seeds, number(row, "improvement")), ""


def _exponents(claim: Mapping[str, Any], study: Study, smallest: float) -> Iterator[Finding]:
    """Yield one hypothesis a protocol under which an amount of training changes within tasks."""
    of, amount = claim["measure"]["norm"], claim["measure"]["of"]
    symbol = {"weights": "1/‖W‖", "task_vector": "1/‖τ‖"}[of]
    found = norm_data.by_amount(study, of, amount)
    for protocol, points in found.items() or {"": []}.items():
        finding = Finding(claim, study.suite["id"], of, protocol or amount, f"{symbol} ∝ {amount}^b", EXPONENT, smallest)
        finding.name += f", {protocol}" if protocol else ""
        finding.missing = f"no two models of a task differ in the number of {amount}"
        if fitted := norm_data.exponent(points) if points else None:
            slope, error, freedom = fitted
            wide, narrow = (error * float(t.ppf(level, freedom)) for level in ((1 + LEVEL) / 2, LEVEL))
            p = float(2 * t.sf(abs(slope) / error, freedom)) if error else 0.0
            effect = Effect(slope, slope - wide, slope + wide, abs(slope) + narrow, p, len(points), len(study.measures))
            finding.effect, finding.missing = effect, ""
        yield finding


def combined(found: Sequence[Finding]) -> str:
    """Return the verdict on a claim: that of all its hypotheses that were tested, or how many have which."""
    counts = Counter([each.verdict for each in found if each.effect] or [UNTESTABLE])
    return next(iter(counts)) if len(counts) == 1 else ", ".join(f"{name} {counts[name]}" for name in VERDICTS if counts[name])


def described(finding: Finding, suite: str) -> str:
    """Describe a finding in a line: effect, interval, p, seeds, what it could have shown, and what would change the verdict."""
    place = f"{suite}, {finding.name}, {METRICS[finding.metric]}: {finding.verdict}"
    if finding.effect is None:
        return f"{place}, {finding.change}"
    effect, limits, p = finding.effect, interval_of(finding.effect), p_value(finding.p)
    p = p.replace("<", "< ") if p.startswith("<") else f"= {p}"
    seen = f"{number_of(effect.seeds, 'seed')}, {number_of(effect.n, 'model' if finding.metric == EXPONENT else 'test example')}"
    least = "" if finding.detectable is None else f"; detectable {finding.detectable:.2f}"
    text = f"{signed_number(effect.difference, 2)}{finding.unit} {limits}, p (Holm) {p}, {seen}{least}"
    return f"{place}. {text}. What would change it: {finding.change[:1].lower()}{finding.change[1:]}"


def interval_of(effect: Effect) -> str:
    """Format the interval of an effect."""
    return f"[{signed_number(effect.low, 2)}, {signed_number(effect.high, 2)}]"


def as_checks(studies: Sequence[Study], registered: Mapping[str, Any]) -> list[Check]:
    """Return the claims as the report shows them: statement, verdict and a line for every hypothesis."""
    labels = {study.suite["id"]: study.suite.get("label") or study.suite["id"] for study in studies}
    found, shown = findings(studies, registered), []
    for claim in registered["claims"]:
        own = [each for each in found if each.claim is claim]
        lines = [described(each, labels[each.suite]) for each in own]
        if not any(each.effect for each in own):
            lines = list(dict.fromkeys(each.change for each in own)) or ["No suite of this run is one that it is about."]
        shown.append(Check(claim["statement"], combined(own), [f"{source(claim)} Compared with {claim['control']}.", *lines]))
    return shown


def source(claim: Mapping[str, Any]) -> str:
    """Say where a claim stands and how its wording relates to the paper."""
    about = {
        "paraphrased": "in words of this project",
        "unconfirmed": "by notes on the paper; compare it before you cite it",
        "implied": "follows from the paper and is not said there",
    }
    return f"arXiv {claim['paper']}, {claim['place']} ({about[claim['wording']]})."
