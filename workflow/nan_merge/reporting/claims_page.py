"""Write the page of claims: what was registered, what the run is, its averages, and each claim with its verdict."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nan_merge.core.atomic import atomic_write
from nan_merge.core.escape import markdown as escaped
from nan_merge.reporting import table_parts as parts
from nan_merge.reporting.finding import EXPONENT, METRICS, UNTESTABLE, Finding
from nan_merge.reporting.formats import BREAK, Table, count, markdown, number_of, p_value, percent, signed_number, write_csv
from nan_merge.reporting.paper_claims import combined, findings, interval_of, source
from nan_merge.reporting.preregistration import label_of, preregistration, test_sizes
from nan_merge.reporting.recipe import recipe
from nan_merge.reporting.statistics import POWER, summarise
from nan_merge.reporting.study import Study

COLUMNS = ["Suite", "Effect of", "Verdict", "Effect", "95 % interval", "Excluded above", "p (Holm)", "Detectable", "Above on, %",
           "Seeds", "n", "What would change it"]  # fmt: skip


def write_claims(studies: Sequence[Study], registered: Mapping[str, Any], output: Path | str) -> None:
    """Write `output`.md and `output`.csv from the studies of a run and the claims registered for it."""
    found = findings(studies, registered)
    labels = {study.suite["id"]: label_of(study) for study in studies}
    lines = ["# Claims of the papers", ""]
    lines += ["## Preregistration", "", *preregistration(studies, registered, found)]
    lines += ["## Design", "", *markdown(_design(studies))]
    lines += ["", "## Averages", "", *markdown(_averages(studies))]
    lines += ["", "## Verdicts", "", *markdown(_overview(registered, found, labels))]
    untested: list[str] = []
    for claim in registered["claims"]:
        own = [each for each in found if each.claim is claim]
        if any(each.effect for each in own):
            lines += ["", *_claim(claim, own, labels)]
        else:
            untested += [f"- {escaped(claim['statement'])} {escaped(source(claim))}", *_missing(own, labels, "  ")]
    lines += ["", *_folded(untested, UNTESTABLE)] if untested else []
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip()
    with atomic_write(Path(f"{output}.md")) as part:
        part.write_text(f"{text}\n", encoding="utf-8")
    table = Table("", [], records=[_record(each) for each in found])
    write_csv(table, Path(f"{output}.csv"))


def _design(studies: Sequence[Study]) -> Table:
    table = Table("", ["Suite", "Tasks", "Seeds", "Fine-tuning", "Skipped"], text=(0, 1, 2, 3, 4))
    for study in studies:
        tasks = ", ".join(f"{study.label(task)} ({count(size)})" for task, size in test_sizes(study).items())
        skipped = [f"{study.label(each['task'])}: {each['reason']}" for each in study.suite.get("skipped", [])]
        skipped += [f"{study.label(each['id'])}: {each['skipped']}" for each in study.methods if "skipped" in each]
        seeds = f"{', '.join(map(str, study.seeds))} ({study.seed})"
        settings, origin = study.suite.get("finetune"), "fetched experts" if "experts" in study.suite else "not stated"
        trained = " ".join(recipe(settings)) if settings else origin
        table.add([label_of(study), tasks, seeds, trained, BREAK.join(skipped) or "nothing"], {})
    table.notes = ["Tasks: in brackets the number of test examples."]
    return table


def _averages(studies: Sequence[Study]) -> Table:
    columns = [f"{label_of(study)}{name}" for study in studies for name in ("", ", 95 % interval", ", weighted")]
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
    yield from _missing(own, labels)


def _missing(own: Sequence[Finding], labels: Mapping[str, str], indent: str = "") -> Iterator[str]:
    """Yield why hypotheses could not be tested, a line each."""
    missing: dict[str, list[str]] = {} if own else {"No suite of this run is one that it is about": [*labels]}
    for each in (each for each in own if not each.effect):
        suites = missing.setdefault(f"{each.name}: {each.missing}", [])
        suites += [labels[each.suite]] if labels[each.suite] not in suites else []
    for text, of in missing.items():
        named = "" if len(of) == len(labels) else f" ({', '.join(of)})"
        yield f"{indent}- {escaped(f'{text}{named}.')}"


def _folded(lines: Sequence[str], verdict: str) -> Iterator[str]:
    """Yield a list of claims that readers unfold."""
    claims = sum(line.startswith("- ") for line in lines)
    yield from ("<details>", f"<summary>{number_of(claims, 'claim')} {verdict}</summary>", "", *lines, "", "</details>")


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
