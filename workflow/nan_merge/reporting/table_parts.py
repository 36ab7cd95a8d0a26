"""Cells and notes that several tables share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nan_merge.data.metrics import MEANS
from nan_merge.reporting.formats import Table, interval, number_of, p_value, percent
from nan_merge.reporting.paired_tests import CORRECTION_GROUPS, ITSELF, SAME, UNDECIDABLE, number, verdict
from nan_merge.reporting.statistics import Estimate
from nan_merge.reporting.study import ACCURACY, METRIC_NAMES, REGRESSION, Study

UNANSWERED = 0.02  # share of outputs without an answer above which a table says so
TESTED = ("difference", "low", "high", "p", "p_holm", "least_p", "least_p_holm", "detectable", "discordant", "changed")
SHOWN = (*CORRECTION_GROUPS, "scan", "ablation", "nested", "forgetting")  # kinds of comparisons shown in the tables of scores
CLUSTER_NOTE = (
    "Where a task has several parts (subjects, problems of several steps, pictures with several questions), standard errors, "
    "intervals and tests take whole parts as the sample, not single examples, and the accuracy is that over all examples."
)
CROSS_CHECK_NOTE = "By OpenCompass: % on the same data, and in brackets lm_eval's; both are means over parts, not over examples."
PAIRED_NOTE = (
    "Δ: difference of the averages over tasks in percentage points, on the same examples; 95 % bootstrap "
    "interval of the examples within each task; p from a sign-flip test{seeds}, adjusted with Holm's method over the "
    "{size} of the suite."
)
PAIRED_SEEDS = (
    " or, if larger, from Student's t of a bootstrap of seeds and examples, which gives the interval too: they cover {covered}"
)
POWER_NOTE = (
    "Detectable: the true difference that would be significant with a chance of {power:.0f} %, in points, at the first step of "
    "Holm's adjustment, by the normal approximation with as many discordant examples. Least p: what p would be if all discordant "
    "examples favoured one method, alone and adjusted."
)
DRAWS_NOTE = (
    'A row of several draws is shown and compared by their mean; "above" counts the draws whose average the method exceeds.'
)


def estimated(table: Table, estimate: Estimate) -> str:
    """Format an estimate in per cent with its spread over seeds; a reason becomes a footnote."""
    spread = estimate.deviation
    text = percent(estimate.value) + (f" ± {percent(spread)}" if spread is not None else "")
    return table.mark(text, sentence(estimate.reason))


def columns(name: str, estimate: Estimate) -> dict[str, Any]:
    """Return an estimate and its limits as columns of a CSV file."""
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def of_task(table: Table, study: Study, method: Mapping[str, Any], task: Mapping[str, Any], estimate: Estimate) -> str:
    """Format the accuracy of a method on a task; a known leak of its test split into training becomes a footnote."""
    leaks = task.get("leaks")
    text = estimated(table, estimate)
    if not leaks or estimate.value is None or estimate.value <= leaks.get("accuracy", 0.0):
        return text
    clean = method.get("group") == "reference" and leaks.get("expert") and method["id"] != f"expert_{leaks['expert']}"
    return text if clean or leaks.get("collection", collection(study)) != collection(study) else table.mark(text, leaks["note"])


def unanswered(study: Study, method: Mapping[str, Any], task: Mapping[str, Any]) -> str:
    """Return the footnote on outputs of a method to a task without an answer, or cut off at the limit; empty if they are few."""
    members = study.members(str(method["id"]))
    found: dict[str, float] = {}
    for score in study.scores:
        if score.task == task["id"] and score.method in members and score.value > task.get("unanswered", UNANSWERED):
            found[score.metric] = max(score.value, found.get(score.metric, 0.0))
    told = {"unanswered": "No answer was found in {} % of the outputs; they count as wrong.",
            "cut_off": "{} % of the outputs reached the limit of tokens."}  # fmt: skip
    return " ".join(text.format(percent(found[metric])) for metric, text in told.items() if metric in found)


def cross_check_notes(study: Study) -> list[str]:
    """Set the scores of OpenCompass beside those of lm_eval that are averaged alike, a sentence each method; none without any."""
    found = {(s.method, s.task, s.seed, s.metric): s.value for s in study.scores}
    notes = []
    for method in study.methods:
        pairs = [
            f"{study.label(task)} {percent(value)} ({percent(found[name, task, seed, 'macro_accuracy'])})"
            for (name, task, seed, metric), value in found.items()
            if metric == "opencompass" and name in study.members(str(method["id"]))
        ]
        notes += [f"{method.get('label', method['id'])} by OpenCompass: {', '.join(pairs)}."] if pairs else []
    return [*notes, CROSS_CHECK_NOTE] if notes else []


def owner_notes(study: Study) -> list[str]:
    """Say whose models are scored and how their inputs were corrupted; nothing where the suite makes its own."""
    owner = study.suite.get("owner")
    if not owner:
        return []
    notes = [
        f"Base, experts and merges are those of {owner['label']}: nothing was trained here, and nothing chosen on these data."
    ]
    return [*notes, f"Test inputs are corrupted: {_corruption(**owner['corrupt'])}."] if "corrupt" in owner else notes


def _corruption(kind: str, strength: float) -> str:
    if kind == "typos":
        return f"typos in {100 * strength:g} % of the words of four letters or more"
    return f"{kind.replace('_', ' ')} of severity {strength:g} of 5"


def collection(study: Study) -> str:
    """Return the letter of the collection of a suite, empty for models that are fine-tuned here."""
    return str(study.suite.get("collection", {}).get("id", ""))


def limits(table: Table, estimate: Estimate) -> str:
    """Format the interval of an estimate, or the smallest and largest of its draws, with a footnote."""
    if not estimate.draws:
        return interval(estimate.low, estimate.high)
    text = f"{percent(estimate.low)} to {percent(estimate.high)}"
    return table.mark(text, "Smallest and largest average of the draws; this is no interval.")


def interval_notes(*studies: Study) -> list[str]:
    """Say how intervals are computed from the metrics and examples of these suites, and what they cover."""
    metrics = {study.metric(task["id"]) for study in studies for task in study.tasks}
    grouped, generated = any(study.grouped for study in studies), any(study.generated for study in studies)
    limits = []
    if ACCURACY in metrics or not metrics:
        clustered = ", with as many independent examples as have the clustered standard error where they come in groups"
        limits.append(f"Wilson's limits of each accuracy{clustered * grouped}")
    if metrics - {ACCURACY}:
        limits.append("normal limits of each other score, by a bootstrap of the examples")
    examples = "" if grouped else ", examples independent within a task"
    batches = ", and no other batch size, machine or library, by which generated answers can change"
    if any(study.samples_seeds for study in studies):
        limits.append("Student's limits over seeds, within the range of scores")
    covered = "; in another suite, ".join(dict.fromkeys(study.covered for study in studies))
    return [
        f"Intervals: 95 %{examples}; {', '.join(limits)}, joined by square-and-add (MOVER). They cover {covered}"
        f"{batches * generated}.",
        *[CLUSTER_NOTE] * grouped,
    ]


def paired_note(study: Study) -> str:
    """Say how differences are tested and over how many comparisons they are adjusted."""
    size = counted(tested(study), "host and control ")
    return PAIRED_NOTE.format(size=size, seeds=PAIRED_SEEDS.format(covered=study.covered) * study.samples_seeds)


def sentence(text: str) -> str:
    """Return a text with a capital and a full stop, empty for an empty one."""
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def metric_notes(study: Study) -> list[str]:
    """Name the metrics of tasks that are not scored by accuracy, and say what is different for them; none if there are none."""
    by_metric: dict[str, list[str]] = {}
    for task in study.tasks:
        by_metric.setdefault(study.metric(task["id"]), []).append(study.label(task["id"]))
    others = {metric: tasks for metric, tasks in by_metric.items() if metric != ACCURACY}
    if not others:
        return []
    named = [f"{', '.join(tasks)}: {METRIC_NAMES[metric]}" for metric, tasks in others.items()]
    numbers = [task for metric in REGRESSION for task in others.get(metric, [])]
    left_out = f", without {', '.join(numbers)}, whose labels are numbers" if numbers else ""
    counted = f"Differences, p and discordant examples count correct answers: they compare accuracy on the tasks{left_out}."
    paired = [metric for metric in others if metric in MEANS]
    notes = [f"Scores are accuracy except for {'; '.join(named)}.", *[counted] * (len(paired) < len(by_metric))]
    return [*notes, *(f"Differences and p of {METRIC_NAMES[metric]} are paired query by query." for metric in paired)]


def pairs_of(study: Study, kind: str, task: str = "average") -> list[dict[str, str]]:
    """Return the comparisons of one kind."""
    return [row for row in study.comparisons if row["kind"] == kind and row["task"] == task]


def tested(study: Study) -> list[dict[str, str]]:
    """Return the host and control comparisons, which share one Holm adjustment."""
    return [row for kind in CORRECTION_GROUPS for row in pairs_of(study, kind)]


def counted(rows: Iterable[Mapping[str, str]], what: str = "") -> str:
    """Say how many comparisons were tested, those of the same two models once: `1 comparison`, `13 host comparisons`."""
    size = sum(number(row, "p") is not None and not row.get("same_as") for row in rows)
    return number_of(size, f"{what}comparison")


def twin_of(study: Study, pair: Mapping[str, str]) -> str:
    """Return the earlier comparison of the same two models as `METHOD − AGAINST` by their labels, empty if there is none."""
    method, against, other = (pair.get("same_as") or "").partition(" against ")
    return f"{study.label(method)} − {study.label(other)}" if against else ""


def difference(study: Study, pair: dict[str, str]) -> str:
    """Format a comparison: other method, difference, interval, p, number of draws exceeded, and if it could tell nothing."""
    name = f"{study.label(pair['against'])}: "
    rank = f", above {pair['above']} of {pair['draws']}" if pair.get("draws") else ""
    if number(pair, "difference") is None:
        return f"{name}not compared"
    if pair.get("same_as") == ITSELF:
        return f"{name}the same model"
    if number(pair, "changed") == 0:
        return f"{name}0.0, same predictions"
    p = p_value(number(pair, "p_holm")).replace("<", "< ")
    told = f", {state}" if (state := verdict(pair)) in (SAME, UNDECIDABLE) else ""
    return f"{name}{percent(number(pair, 'difference'), signed=True)} {difference_limits(pair)} p {p}{rank}{told}"


def difference_limits(row: dict[str, str]) -> str:
    """Format the interval of a difference."""
    return interval(number(row, "low"), number(row, "high"), signed=True)
