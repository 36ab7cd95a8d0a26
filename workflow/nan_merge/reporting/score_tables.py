"""The tables of scores and of their differences, one function a kind."""

from __future__ import annotations

from typing import Any

from nan_merge.reporting import table_parts as parts
from nan_merge.reporting.formats import BREAK, Table, count, number_of, p_value, percent
from nan_merge.reporting.paired_tests import (
    CORRECTION_GROUPS,
    FAILS,
    HOLDS,
    ITSELF,
    SAME,
    UNDECIDABLE,
    UNDECIDED,
    number,
    verdict,
)
from nan_merge.reporting.statistics import POWER, summarise
from nan_merge.reporting.study import Study

OTHER_KINDS = " Other kinds of pairs are adjusted among themselves."


def accuracy(study: Study, record: dict[str, Any]) -> Table:
    """One row a method: tasks, averages, and each NAN row against its host and controls."""
    tasks = [task.get("label", task["id"]) for task in study.tasks]
    related = ("Weighted", "Normalised") if study.has_experts_of_tasks else ()  # to training sets and experts of the tasks
    header = ["Method", *tasks, "Average", "95 % interval", *related, "Δ against"]
    table = Table(study.title(record), header, text=(0, len(header) - 1))
    for row in summarise(study):
        method = row.method
        formatted = [parts.of_task(table, study, method, task, row.tasks[task["id"]]) for task in study.tasks]
        formatted = [
            table.mark(text, parts.unanswered(study, method, task)) for text, task in zip(formatted, study.tasks, strict=True)
        ]
        against = {kind: [pair for pair in parts.pairs_of(study, kind) if pair["method"] == method["id"]] for kind in parts.SHOWN}
        averages = [parts.estimated(table, row.average), parts.limits(table, row.average)]
        averages += [parts.estimated(table, mean) for mean in (row.weighted, row.normalised)[: len(related)]]
        differences = BREAK.join(parts.difference(study, pair) for pairs in against.values() for pair in pairs)
        cells = [method.get("label", method["id"]), *formatted, *averages, differences]
        table.add(cells, _accuracy_record(study, row, against), study.block(method))
    several, made = len(study.seeds) > 1, [study.suite["collection"]] if study.suite.get("collection") else []
    seeds = f", mean ± standard deviation over {number_of(len(study.seeds), study.seed)}." if several else f"; one {study.seed}."
    table.notes = [
        f"{study.measure.capitalize()} in % on the test split{seeds}",
        "Average: over tasks."
        + (
            f" Weighted: by training-set size. Normalised: mean over tasks of {study.measure} / {study.measure} of the "
            "individual model, in %."
            if related
            else ""
        ),
        *parts.owner_notes(study),
        *_individual_notes(study),
        *parts.metric_notes(study),
        *parts.cross_check_notes(study),
        *parts.interval_notes(study),
        parts.paired_note(study) + OTHER_KINDS,
        *([parts.DRAWS_NOTE] if any("draws" in method for method in study.methods) else []),
        *study.choices(),
        *(f"Checkpoints: collection {c['id']}, {c['label']}; numbers of another collection are not comparable." for c in made),
        *(f"Task {study.label(entry['task'])} was skipped: {entry['reason']}." for entry in study.suite.get("skipped", [])),
    ]
    return table


def _individual_notes(study: Study) -> list[str]:
    """Say which expert stands for the individual model of a task, where experts have names of their own."""
    if not study.trained_on:
        return []
    if not study.has_individual:
        return [
            "No expert was trained on these tasks, so there is no individual model: what merges keep of the base is measured."
        ]
    of_tasks = {name: tasks for name, tasks in study.trained_on.items() if tasks}
    trained = "; ".join(f"{name}: {', '.join(map(study.label, tasks))}" for name, tasks in of_tasks.items())
    notes = [f"{study.label('individual')}: every task by the expert that was trained on it ({trained})."]
    if study.unseen:
        notes.append(
            f"No expert was trained on {', '.join(study.unseen)}: there the pretrained model stands for the individual one."
        )
    return notes


def _accuracy_record(study: Study, row: Any, against: dict[str, list[dict[str, str]]]) -> dict[str, Any]:
    """Return fractions, unrounded, and the same in per cent, named so."""
    record: dict[str, Any] = {
        "suite": study.suite["id"],
        "method": row.method["id"],
        "label": row.method.get("label"),
        "group": row.method.get("group"),
        "draws": row.average.draws or None,
    }
    means = {"average": row.average}
    if study.has_experts_of_tasks:
        means |= {"weighted_average": row.weighted, "normalised_average": row.normalised}
    for name, estimate in [*row.tasks.items(), *means.items()]:
        record |= parts.columns(name, estimate) | {
            f"{name}_sd_over_seeds": estimate.deviation,
            f"{name}_percent": percent(estimate.value).replace("−", "-"),
            f"{name}_remark": estimate.reason,
        }
    numbered = [(kind, pair) for kind in against if kind != "control" for pair in against[kind]]
    numbered += [(f"control_{index}", pair) for index, pair in enumerate(against["control"], 1)]
    for name, pair in numbered:
        record |= {name: pair["against"], **{f"{name}_{column}": pair[column] for column in parts.TESTED}}
    return record


def comparisons(study: Study, record: dict[str, Any]) -> Table:
    """One row a compared pair, host and control comparisons first; the verdict combines test and interval."""
    rows = [row for row in study.comparisons if row["task"] == "weighted_average"]
    weighted = {(row["method"], row["against"], row["kind"]): row for row in rows}
    header = ["Method", "Against", "Kind", "Verdict", "Δ average", "95 % interval", "Excluded above", "p", "p (Holm)"]
    header += ["Least p", "Least p (Holm)", "Detectable", "Above on", "Discordant", "Changed", "Predictions"]
    header += ["Δ weighted"] if weighted else []
    table = Table(study.title(record), header, text=(0, 1, 2, 3))
    shown = {method["id"] for method in study.methods}
    plain = [row for row in study.comparisons if row["task"] == "average" and row["method"] in shown]
    for row in sorted(plain, key=lambda row: "" if row["kind"] in CORRECTION_GROUPS else row["kind"]):
        other = weighted.get((row["method"], row["against"], row["kind"]), {})
        cells = [study.label(row["method"]), study.label(row["against"]), row["kind"], verdict(row)]
        cells += [percent(number(row, "difference"), signed=True), parts.difference_limits(row)]
        cells += [percent(number(row, "within"), 2)]
        cells += [p_value(number(row, name)) for name in ("p", "p_holm", "least_p", "least_p_holm")]
        cells += [percent(number(row, "detectable"), 2), percent(number(row, "improvement"), 0)]
        cells += [count(row[name]) for name in ("discordant", "changed", "n")]
        if weighted:
            cells.append(f"{percent(number(other, 'difference'), signed=True)} {parts.difference_limits(other)}".strip())
        if number(row, "difference") is None:
            cells[4] = table.mark(cells[4], "Not compared: the two methods have no seed with scores of every task in common.")
        if row.get("same_as") == ITSELF:
            cells[4] = table.mark(cells[4], "The two methods are one and the same model here: no comparison, and not counted.")
        elif twin := parts.twin_of(study, row):
            cells[4] = table.mark(cells[4], f"The same models as in {twin}: one comparison, counted once.")
        more = {f"weighted_{name}": other.get(name) for name in ("difference", "low", "high", "p", "p_holm") if weighted}
        table.add(cells, {**row, **more, "verdict": verdict(row)}, "" if row["kind"] in CORRECTION_GROUPS else row["kind"])
    table.notes = [
        parts.paired_note(study) + OTHER_KINDS,
        *parts.metric_notes(study),
        "Discordant: predictions of which only one method's is correct. Changed: predictions that differ. Without a "
        "discordant example the interval is the exact 95 % bound on the share of discordant examples.",
        "Excluded above: a difference larger than this, either way, in points, by two one-sided tests at 5 % (TOST), unadjusted. "
        "Above on: % of tasks and seeds on which the method is above the other, ties as half.",
        parts.POWER_NOTE.format(power=100 * POWER),
        f'Verdict on "the method is above the other": "{HOLDS}" or "{FAILS}" only with p (Holm) < 0.05 and an interval on one '
        f'side of 0. "{SAME.capitalize()}": without a discordant example. "{UNDECIDABLE.capitalize()}": least p (Holm) is at '
        f'least 0.05, so no outcome on these discordant examples would be significant. Otherwise "{UNDECIDED}", which is no '
        "statement of equality.",
        *study.choices(),
    ]
    if weighted:
        table.notes.append(
            "Δ weighted: average weighted by training-set size; p-values of these are in the CSV file, adjusted among themselves."
        )
    return table
