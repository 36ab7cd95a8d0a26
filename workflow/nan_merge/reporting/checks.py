"""Checks of one suite with computed verdicts and the numbers behind them, as text without layout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from nan_merge.reporting import norm_data
from nan_merge.reporting.formats import count, exceeds, interval, p_value, percent, spread
from nan_merge.reporting.paired_tests import (
    CORRECTION_GROUPS,
    FAILS,
    HOLDS,
    ITSELF,
    NOT_TESTED,
    SAME,
    UNDECIDABLE,
    UNDECIDED,
    VERDICTS,
    number,
    verdict,
)
from nan_merge.reporting.statistics import (
    AVERAGING,
    BASE,
    INDIVIDUAL,
    LEVEL,
    POWER,
    Summary,
    best_merge,
    candidates,
    spearman,
    summarise,
)
from nan_merge.reporting.study import Study
from nan_merge.reporting.table_parts import counted, pairs_of, tested, twin_of

REVERSED = "reversed"


class Check(NamedTuple):
    """A falsifiable statement, its verdict and the numbers behind it, one text each."""

    statement: str
    verdict: str
    evidence: list[str]


def checks(study: Study) -> list[Check]:
    """Return the checks of one suite in reading order; a check without measurements is `not tested`, never left out.

    What norms say of models stands with the suite that makes them, not with one that scores its merges on other data.
    """
    left_out = () if study.owner == study.suite["id"] else OF_MODELS
    return [check for build in CHECKS if build not in left_out for check in build(study)]


def describe(study: Study, row: dict[str, str]) -> str:
    """Describe one comparison in a line: methods, difference, interval, p, and what it could have shown."""
    pair = f"{study.label(row['method'])} − {study.label(row['against'])}"
    if number(row, "difference") is None:
        return f"{pair}: not compared, scores are missing."
    if row.get("same_as") == ITSELF:
        return f"{pair}: one and the same model, so there is no difference to test."
    size = f"{count(row['n'])} predictions"
    limits = interval(number(row, "low"), number(row, "high"), signed=True)
    if number(row, "discordant") == 0:
        same = "the same predictions" if number(row, "changed") == 0 else "right and wrong on the same examples"
        return (
            f"{pair}: {same} ({size}). No difference was observed; one as large as "
            f"{percent(number(row, 'high'), 2)} points, either way, cannot be excluded."
        )
    rank = f", above {row['above']} of {row['draws']} draws" if row.get("draws") else ""
    bound = f"; above {percent(number(row, 'within'), 2)} points, either way, is excluded" if number(row, "within") else ""
    once = f"; the same models as in {twin}, counted once" if (twin := twin_of(study, row)) else ""
    return (
        f"{pair}: {percent(number(row, 'difference'), signed=True)} points {limits}, "
        f"adjusted p {_p(row, 'p_holm')}, {count(row['discordant'])} of {size} discordant{rank}{bound}{_reach(row)}{once}."
    )


def _p(row: dict[str, str], column: str) -> str:
    p = p_value(number(row, column))
    return p.replace("<", "< ") if p.startswith("<") else f"= {p}"


def _reach(row: dict[str, str]) -> str:
    """Say what a comparison could have shown; empty where that was not computed."""
    smallest = number(row, "detectable")
    if smallest is None:
        return ""
    return f"; detectable {percent(smallest, 2)} points, least attainable adjusted p {_p(row, 'least_p_holm')}"


def separation(study: Study) -> list[Check]:
    """Judge pretrained < averaging < best merge < individual, step by step, with paired tests."""
    averages = {row.method["id"]: row for row in summarise(study)}
    rows = {(row["method"], row["against"]): row for row in pairs_of(study, "order")}
    found, merges = best_merge(study)
    best = found.method["id"] if found else ""
    upper = max(study.uppers, key=lambda method: averages[method].average.value or 0.0 if method in averages else 0.0)
    steps = [(AVERAGING, BASE), (best, AVERAGING), (upper, best)]
    evidence, verdicts = [], []
    for method, against in steps:
        row = rows.get((method, against))
        verdicts.append(verdict(row) if row else NOT_TESTED)
        name = f"{study.label(against or 'best merge')} < {study.label(method or 'best merge')}"
        evidence.append(f"{name}: {verdicts[-1]}. {describe(study, row) if row else 'This pair was not compared.'}")
    known = [averages[method] for method in (BASE, AVERAGING, best, upper) if method in averages]
    evidence.insert(0, f"Averages in %: {'; '.join(map(_average, known)) or 'none of these methods was run'}.")
    if merges > 1:
        evidence.append(
            f"The best merge was selected on the same test split: its average is the largest of {merges} merges (without "
            "averaging, and without means of several draws). As a maximum it is biased upwards."
        )
    if merges > 1 and sum(against == AVERAGING for _, against in rows) >= merges:
        evidence.append(
            f"Every merge is compared with averaging, and Holm's adjustment covers all {counted(rows.values())} of this kind, so "
            "the selection does not favour the step above averaging."
        )
    last = "individual" if study.uppers == [INDIVIDUAL] else "best expert"
    return [Check(f"Methods are separated: pretrained < averaging < best merge < {last}", _all(verdicts), evidence)]


def _average(row: Summary) -> str:
    label = row.method.get("label", row.method["id"])
    return f"{label} {percent(row.average.value) or 'no average'} {interval(row.average.low, row.average.high)}".strip()


def _all(verdicts: list[str]) -> str:
    """Return the verdict on a conjunction: one failure fails it, one gap leaves it open."""
    states = (FAILS, SAME, NOT_TESTED, UNDECIDABLE, UNDECIDED, HOLDS)
    return next((state for state in states if state in verdicts), NOT_TESTED)


def weight_norms(study: Study) -> list[Check]:
    """Judge whether norms of whole weights give other coefficients than uniform ones."""
    statement = "NAN from the norms of whole weights differs from uniform coefficients"
    measured = norm_data.experts(study)
    if len(measured) < 2:
        reason = "One expert has the whole share, whatever its norm." if measured else "No norms were measured."
        return [Check(statement, NOT_TESTED, [reason])]
    evidence, spreads = [], {}
    for of, name in (("weights", "‖W‖"), ("task_vector", "‖τ‖")):
        alpha = np.array([row[f"alpha_{of}"] for row in measured.values()])
        spreads[of] = max(norm_data.relative_spread(column) for column in alpha.T)
        evidence.append(
            f"Shares from {name}: the largest {exceeds(spreads[of])}"
            + (" (largest value over the seeds)." if alpha.shape[1] > 1 else ".")
        )
    ratio = max(float(row["ratio"].max()) for row in measured.values())
    evidence.append(
        f"A task vector is at most {spread(ratio)} % as long as the weights of its expert. Lengths alone would allow norms of "
        f"weights that differ by {spread(norm_data.allowed_by_lengths(study))} %; to first order what counts are the parts of "
        "task vectors along the weights of the base, and these differ by at most "
        f"{spread(norm_data.along_the_base(study) or 0.0)} % of the longest task vector."
    )
    nearly = [method["id"] for method in study.methods if method.get("host") and _uniform(study, method["id"])]
    for row in study.comparisons:
        paired = row["kind"] in CORRECTION_GROUPS and row["task"] == "average" and number(row, "changed") is not None
        if paired and row["method"] in nearly and _uniform(study, row["against"]) and _alike(study, row):
            evidence.append(
                f"{study.label(row['method'])} and {study.label(row['against'])}, both uniform and equally large "
                f"within {100 * norm_data.SPREAD:g} %: {count(row['changed'])} of {count(row['n'])} predictions differ."
            )
    evidence.append(
        f"Criterion, fixed beforehand: shares that differ by less than {100 * norm_data.SPREAD:g} % count as uniform. "
        "This concerns coefficients and is no statistical test."
    )
    return [Check(statement, HOLDS if spreads["weights"] >= norm_data.SPREAD else FAILS, evidence)]


def _uniform(study: Study, method: str) -> bool:
    shares = norm_data.shares(study, method)
    return shares is not None and shares.ratio is not None and float(shares.ratio.max()) - 1 < norm_data.SPREAD


def _alike(study: Study, row: dict[str, str]) -> bool:
    both = [norm_data.shares(study, row[name]) for name in ("method", "against")]
    means = np.array([shares.coefficient for shares in both if shares])
    return len(means) == 2 and norm_data.relative_spread(means) < norm_data.SPREAD


def gains(study: Study) -> list[Check]:
    """Judge every NAN row against its host, against each control, and against all of them together."""
    nan = {method["id"] for method in [*study.methods, *study.others] if method.get("group") == "nan"}
    paired = [row for row in study.comparisons if row["task"] == "average" and row["kind"] in CORRECTION_GROUPS]
    plain = [row for row in paired if row["method"] in nan]
    if not plain:
        return [Check("NAN is above its host and its controls", NOT_TESTED, ["No NAN row was compared."])]
    groups: dict[str, list[dict[str, str]]] = {}
    for row in plain:
        variant = row["against"].removeprefix(f"{row['method']}+")  # `ties+nan_delta+permuted` is a control of one row
        control = f'its control "{variant}"' if variant != row["against"] else f'the control "{study.label(variant)}"'
        groups.setdefault("its host" if row["kind"] == "host" else control, []).append(row)
    found = []
    for against, rows in groups.items():
        evidence = [f"{verdict(row).capitalize()}. {describe(study, row)}" for row in rows]
        found.append(Check(f"NAN is above {against}", _tally([verdict(row) for row in rows]), evidence))
    if [*groups] == ["its host"]:
        found[0].evidence.extend(["No control of a NAN row was compared.", _resolution(study, plain)])
        return found
    methods = list(dict.fromkeys(row["method"] for row in plain))
    together = {method: _all([verdict(row) for row in plain if row["method"] == method]) for method in methods}
    evidence = [
        f"{state.capitalize()}: {', '.join(study.label(m) for m in methods if together[m] == state)}."
        for state in VERDICTS
        if state in together.values()
    ]
    evidence.append(
        "A gain counts as NAN's only if the row is above its host and above every control of it: a gain that a control "
        "reaches as well does not come from the norms. Rows without controls are judged by their host."
    )
    evidence.append(_resolution(study, plain))
    return [Check("NAN is above its host and above all its controls", _tally(list(together.values())), evidence), *found]


def _tally(verdicts: list[str]) -> str:
    counts = Counter(verdicts)
    if len(counts) == 1:
        return verdicts[0]
    return ", ".join(f"{name} {counts[name]}" for name in VERDICTS if counts[name])


def _resolution(study: Study, rows: list[dict[str, str]]) -> str:
    """Say which differences the comparisons of NAN rows could have shown."""
    smallest = [size for row in rows if (size := number(row, "detectable")) is not None]
    if not smallest:
        return "The resolution of this test set is unknown: no NAN row has enough discordant examples to decide anything."
    low, middle, high = (percent(float(np.quantile(smallest, share)), 2) for share in (0, 0.5, 1))
    lost = sum(verdict(row) == UNDECIDABLE and not row.get("same_as") for row in rows)
    text = (
        f"Resolution: the minimal detectable difference is {middle} points in the median, from {low} to {high}. A true "
        f"difference of that size would be found with a chance of {100 * POWER:.0f} % at the first step of Holm's adjustment "
        f"over {counted(tested(study))}, by the normal approximation."
    )
    left_out = (
        f" Of {counted(rows)} of NAN rows {lost} cannot be decided and {'is' if lost == 1 else 'are'} left out here: even if "
        f"all discordant examples favoured one method, the adjusted p would not be below {1 - LEVEL:.2f}."
    )
    return text + (left_out if lost else "")


def premise(study: Study) -> list[Check]:
    """Judge for each norm and protocol whether 1/norm grows with the amount of data."""
    if not study.premise:
        return [Check("1/norm follows the amount of data", NOT_TESTED, ["The premise was not measured in this suite."])]
    found = []
    for of, name in (("weights", "1/‖W‖"), ("task_vector", "1/‖τ‖")):
        drawn = norm_data.lines(study, of)
        for protocol in dict.fromkeys(row["protocol"] for row in study.premise):
            lines = [line for line in drawn if line.protocol == protocol]
            evidence = [_line(study, line, name) for line in lines]
            evidence.append(
                "Holds (or is reversed) if every line rises (or falls) at every step and changes by at least "
                f"{100 * norm_data.SPREAD:g} %. A description of these runs, not a test."
            )
            found.append(Check(f"{name} follows the amount of data at equal {protocol}", _trend(lines), evidence))
    experts = _across(study)
    found[-1].evidence.extend([experts] if experts else [])
    return found


def _line(study: Study, line: norm_data.Line, name: str) -> str:
    sizes = f"{len(line.examples)} sizes ({count(line.examples[0])} to {count(line.examples[-1])} examples)"
    return (
        f"{study.label(line.task)}, seed {line.seed}: Spearman {_rank(line.rank)} over {sizes}; {_TREND[line.trend]}; the "
        f"largest {name} exceeds the smallest by {spread(norm_data.relative_spread(line.inverse))} %."
    )


def _trend(lines: list[norm_data.Line]) -> str:
    trends = {line.trend for line in lines if norm_data.relative_spread(line.inverse) >= norm_data.SPREAD}
    if len(trends) != 1 or any(norm_data.relative_spread(line.inverse) < norm_data.SPREAD for line in lines):
        return FAILS
    return {1: HOLDS, -1: REVERSED}.get(trends.pop(), FAILS)


def _across(study: Study) -> str:
    measured, sizes = norm_data.experts(study), study.sizes
    names = [name for name in measured if name in sizes]
    if len(names) < 3:
        return ""
    inverse = [float(np.mean(1 / measured[name]["task_vector"])) for name in names]
    rank = _rank(spearman([sizes[name] for name in names], inverse))
    return (
        f"Across the {len(names)} experts of the suite: Spearman of 1/‖τ‖ with the training-set size {rank}. Tasks differ "
        "in classes and difficulty as well as in size, so this correlation neither shows nor excludes an effect of size."
    )


def _rank(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.2f}".replace("-", "−")


def selected(study: Study) -> list[Check]:
    """Judge whether a value selected on validation is above the fixed one, on the test split."""
    rows = {row["method"]: row for row in pairs_of(study, "selection")}
    curves = candidates(study)
    if not curves and not rows:
        return [Check("λ selected on validation is above the fixed λ", NOT_TESTED, ["Nothing was selected in this suite."])]
    found = []
    for method in dict.fromkeys([*curves, *rows]):
        grid = sorted(curves.get(method, {}))
        values = study.chosen(method)
        listed, picked = ", ".join(f"{value:g}" for value in grid), study.picked(method)
        best = f"best average {study.measure} on the validation splits: {picked or 'unknown'}"
        evidence = [f"Candidates: {listed}; {best}."] if grid else []
        if grid and any(value in (grid[0], grid[-1]) for value in values):
            evidence.append("A chosen value lies at the edge of the grid: a wider grid could give another.")
        row = rows.get(method)
        symbol = study.symbol(method)
        evidence.append(describe(study, row) if row else f"It was not compared with a fixed {symbol} on the test split.")
        fixed = "" if (value := study.fixed(method)) is None else f" = {value:g}"
        statement = f"{study.label(method)}: {symbol} selected on validation is above the fixed {symbol}{fixed} on the test split"
        found.append(Check(statement, verdict(row) if row else NOT_TESTED, evidence))
    return found


_TREND = {1: "rises at every step", -1: "falls at every step", 0: "neither rises nor falls throughout"}
CHECKS: tuple[Callable[[Study], list[Check]], ...] = (separation, weight_norms, gains, premise, selected)
OF_MODELS = (weight_norms, premise)
