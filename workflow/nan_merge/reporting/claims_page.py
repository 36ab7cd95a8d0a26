"""Write the page of claims: what was registered, what the run is, its averages, and each claim with its verdict."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nan_merge.core.atomic import atomic_write
from nan_merge.core.escape import markdown as escaped
from nan_merge.reporting import table_parts as parts
from nan_merge.reporting.finding import EXPONENT, METRICS, Finding
from nan_merge.reporting.formats import BREAK, Table, count, markdown, number_of, p_value, percent, signed_number, write_csv
from nan_merge.reporting.paper_claims import combined, findings, interval_of, source
from nan_merge.reporting.statistics import LEVEL, POWER, detectable, summarise
from nan_merge.reporting.study import Study

COLUMNS = ["Suite", "Effect of", "Verdict", "Effect", "95 % interval", "Excluded above", "p (Holm)", "Detectable", "Above on, %",
           "Seeds", "n", "What would change it"]  # fmt: skip


def write_claims(studies: Sequence[Study], registered: Mapping[str, Any], output: Path | str) -> None:
    """Write `output`.md and `output`.csv from the studies of a run and the claims registered for it."""
    found = findings(studies, registered)
    labels = {study.suite["id"]: _label(study) for study in studies}
    lines = ["# Claims of the papers", ""]
    lines += ["## Preregistration", "", *_preregistration(studies, registered, found)]
    lines += ["## Design", "", *markdown(_design(studies))]
    lines += ["", "## Averages", "", *markdown(_averages(studies))]
    lines += ["", "## Verdicts", "", *markdown(_overview(registered, found, labels))]
    for claim in registered["claims"]:
        lines += ["", *_claim(claim, [each for each in found if each.claim is claim], labels)]
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip()
    with atomic_write(Path(f"{output}.md")) as part:
        part.write_text(f"{text}\n", encoding="utf-8")
    table = Table("", [], records=[_record(each) for each in found])
    write_csv(table, Path(f"{output}.csv"))


def _label(study: Study) -> str:
    return str(study.suite.get("label") or study.suite["id"])


def _preregistration(studies: Sequence[Study], registered: Mapping[str, Any], found: Sequence[Finding]) -> Iterator[str]:
    smallest, assumed = registered["smallest_effect"], registered["assumed"]
    yield (
        f"`config/claims.yaml` states {number_of(len(registered['claims']), 'claim')} with contrasts, metrics and smallest "
        "effects of interest; verdicts are computed from them and from the numbers of the run. Every hypothesis is that an "
        "effect is above zero. The test is that of all comparisons, paired over the same examples, and over seeds where there "
        "are several; p is adjusted with Holm's method over the hypotheses of a suite."
    )
    yield from [
        "",
        f"- *Reproduced*: p (Holm) below {1 - LEVEL:.2f} and a 95 % interval above zero. *Opposite*: the same below zero.",
        "- *Not reproduced*: two one-sided tests at 5 % (TOST, not adjusted) exclude every effect, of either sign, as large as "
        "the smallest one of interest. This comes first: an effect that differs from zero can be too small to be of interest.",
        "- *Undecided*: none of these. *Not testable here*: a method or a measurement that the run does not have.",
        "",
        *markdown(_hypotheses(registered, smallest)),
        "",
        "What the design could detect, before any score was known:",
        "",
        *markdown(_power(studies, assumed, found)),
        "",
    ]


def _hypotheses(registered: Mapping[str, Any], smallest: Mapping[str, float]) -> Table:
    table = Table("", ["Claim", "Above zero", "Metric", "Smallest effect", "Control"], text=(0, 1, 2, 4))
    for claim in registered["claims"]:
        if measure := claim.get("measure"):
            tested, metrics, kind = (
                [f"b of 1/norm ({measure['norm'].replace('_', ' ')}) ∝ {measure['of']}^b"],
                [EXPONENT],
                EXPONENT,
            )
        else:
            tested = [*dict.fromkeys(f"{each['method']} − {each['against']}" for each in claim["contrasts"])]
            metrics, kind = claim.get("metrics", ["average"]), "points"
        least = f"{claim.get('smallest_effect', smallest[kind]):g}{'' if measure else ' points'}"
        named = BREAK.join(METRICS[each] for each in metrics)
        table.add([claim["id"], BREAK.join(tested) or "no suite of the run", named, least, claim["control"]], {})
    return table


def _power(studies: Sequence[Study], assumed: Mapping[str, float], found: Sequence[Finding]) -> Table:
    table = Table("", ["Suite", "Seeds", "Tasks", "Test examples", "Hypotheses", "Detectable, points"])
    for study in studies:
        family = max((each.family for each in found if each.suite == study.suite["id"] and each.effect), default=1)
        sizes = _test_sizes(study)
        error = planned_error(list(sizes.values()), len(study.seeds), assumed)
        table.add([_label(study), *map(str, (len(study.seeds), len(sizes))), count(sum(sizes.values())), str(family),
                   "" if not error or not sizes else f"{100 * (detectable(error, family) or 0):.2f}"], {})  # fmt: skip
    table.notes = [
        f"Detectable: the true difference of averages found with a chance of {100 * POWER:.0f} % at the first step of Holm's "
        f"adjustment, if {100 * assumed['discordant']:g} % of the examples are answered correctly by only one of two methods and "
        f"differences vary over seeds with a standard deviation of {assumed['deviation']:g} points. Both are assumptions; of one "
        "seed the choice of examples alone counts."
    ]
    return table


def planned_error(sizes: Sequence[int], seeds: int, assumed: Mapping[str, float]) -> float:
    """Return the standard error of a difference of averages, as a fraction, from numbers of test examples and assumptions.

    sqrt(q / T^2 sum 1 / n_t + s^2 / R): a share q of the n_t examples of each of T tasks is discordant, differences vary over
    R > 1 seeds with the standard deviation s. Conservative: the answers of several seeds to an example count as one.
    """
    examples = assumed["discordant"] * sum(1 / size for size in sizes) / max(1, len(sizes)) ** 2
    return float(np.sqrt(examples + ((assumed["deviation"] / 100) ** 2 / seeds if seeds > 1 else 0)))


def _test_sizes(study: Study) -> dict[str, int]:
    """Return the test examples by task: of the prepared data, or of the scores where these are not known."""
    known = {task: record.get("splits", {}).get("test") for task, record in study.datasets.items()}
    scored = {score.task: score.n for score in study.reported()}
    return {task["id"]: size for task in study.tasks if (size := known.get(task["id"]) or scored.get(task["id"]))}


def _design(studies: Sequence[Study]) -> Table:
    table = Table("", ["Suite", "Tasks", "Seeds", "Fine-tuning", "Skipped"], text=(0, 1, 2, 3, 4))
    for study in studies:
        tasks = ", ".join(f"{study.label(task)} ({count(size)})" for task, size in _test_sizes(study).items())
        skipped = [f"{study.label(each['task'])}: {each['reason']}" for each in study.suite.get("skipped", [])]
        skipped += [f"{study.label(each['id'])}: {each['skipped']}" for each in study.methods if "skipped" in each]
        training = [f"{key.replace('_', ' ')} {_value(value)}" for key, value in study.suite.get("finetune", {}).items()]
        seeds = f"{', '.join(map(str, study.seeds))} ({study.seed})"
        trained = ", ".join(training) or ("fetched experts" if "experts" in study.suite else "not stated")
        table.add([_label(study), tasks, seeds, trained, BREAK.join(skipped) or "nothing"], {})
    table.notes = ["Tasks: in brackets the number of test examples."]
    return table


def _value(value: Any) -> str:
    return " / ".join(map(str, value)) if isinstance(value, list) else str(value)


def _averages(studies: Sequence[Study]) -> Table:
    columns = [f"{_label(study)}{name}" for study in studies for name in ("", ", 95 % interval", ", weighted")]
    table = Table("", ["Method", *columns])
    rows = [{row.method["id"]: row for row in summarise(study)} for study in studies]
    labels = {method["id"]: method.get("label", method["id"]) for study in studies for method in study.methods}
    for method, label in labels.items():
        cells = [label]
        for found in rows:
            row = found.get(method)
            average = (parts.estimated(table, row.average), parts.limits(table, row.average)) if row else ("", "")
            cells += [*average, percent(row.weighted.value) if row else ""]
        table.add(cells, {})
    several = any(len(study.seeds) > 1 for study in studies)
    table.notes = [
        f"Average over tasks in %{', mean ± standard deviation over seeds' if several else ''}; weighted: by training-set size.",
        *parts.interval_notes(*studies),
    ]
    return table


def _overview(registered: Mapping[str, Any], found: Sequence[Finding], labels: Mapping[str, str]) -> Table:
    suites = labels if len(labels) > 1 else {}
    table = Table("", ["Claim", "Paper", *suites.values(), "Verdict"], text=tuple(range(len(suites) + 3)))
    for claim in registered["claims"]:
        own = [each for each in found if each.claim is claim]
        of = {suite: [each for each in own if each.suite == suite] for suite in suites}
        by_suite = [combined(each) if suite in claim["suites"] else "" for suite, each in of.items()]
        table.add([claim["statement"], f"arXiv {claim['paper']}", *by_suite, combined(own)], {})
    table.notes = [
        "Of several hypotheses the verdicts are counted; those that could not be tested are named below.",
        "In the tables below: effects in points, exponents as they are. Excluded above: an effect as large, either way, by two "
        "one-sided tests at 5 %. Detectable: the effect that would be found with a chance of "
        f"{100 * POWER:.0f} % by the observed standard error. Above on: % of tasks and seeds on which the first method is above "
        "the other, ties as half. n: test examples of a seed, of an exponent the models.",
    ]
    return table


def _claim(claim: Mapping[str, Any], own: Sequence[Finding], labels: Mapping[str, str]) -> Iterator[str]:
    yield from (f"### {escaped(claim['statement'])}", "", f"**{combined(own).capitalize()}**. {escaped(source(claim))}", "")
    table = Table("", COLUMNS, text=(0, 1, 2, len(COLUMNS) - 1))
    for each in own:
        if effect := each.effect:
            numbers = [signed_number(effect.difference, 2), interval_of(effect), f"{effect.within:.2f}", p_value(each.p)]
            numbers += ["" if each.detectable is None else f"{each.detectable:.2f}", percent(effect.improvement, 0)]
            numbers += [str(effect.seeds), count(effect.n)]
            named = each.name if each.metric == "average" else f"{each.name}, {METRICS[each.metric]}"
            table.add([labels[each.suite], named, each.verdict, *numbers, each.change], {})
    if table.rows:
        yield from markdown(table)
    missing: dict[str, list[str]] = {} if own else {"No suite of this run is one that it is about": [*labels]}
    for each in (each for each in own if not each.effect):
        suites = missing.setdefault(f"{each.name}: {each.missing}", [])
        suites += [labels[each.suite]] if labels[each.suite] not in suites else []
    for text, of in missing.items():
        named = "" if len(of) == len(labels) else f" ({', '.join(of)})"
        yield f"- {escaped(f'{text}{named}.')}"


def _record(finding: Finding) -> dict[str, Any]:
    """Return a finding as a row of the CSV file, unrounded."""
    effect = finding.effect
    return {
        "claim": finding.claim["id"], "paper": finding.claim["paper"], "suite": finding.suite, "method": finding.method,
        "against": finding.against, "metric": finding.metric, "unit": "exponent" if finding.metric == EXPONENT else "points",
        "smallest_effect": finding.smallest, "verdict": finding.verdict, **(effect._asdict() if effect else {}),
        "p_holm": finding.p if effect else None, "hypotheses": finding.family if effect else None,
        "detectable": finding.detectable, "change": finding.change,
    }  # fmt: skip
