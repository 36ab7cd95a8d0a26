"""The tables, one function a kind: a study becomes cells. No averages here; `statistics` has computed them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from merging.reporting import norm_tables
from merging.reporting.formats import BREAK, WRITERS, Table, count, interval, p_value, percent
from merging.reporting.paired import FAILS, FAMILIES, HOLDS, UNDECIDED, number, verdict
from merging.reporting.records import Study
from merging.reporting.statistics import Estimate, summarise
from merging.results import UserError

INTERVAL_NOTE = (
    "Intervals: 95 %, test examples independent within a task; Wilson's limits of each task joined by "
    "square-and-add (MOVER). They cover the choice of test examples, not another fine-tuning."
)
PAIRED_NOTE = (
    "Δ: difference of the averages over tasks in percentage points, on the same examples; 95 % bootstrap "
    "interval of the examples within each task; p from a sign-flip test, adjusted with Holm's method over the "
    "{size} host and control comparisons of the suite."
)


def render_table(study: Study, record: dict[str, Any], output: Path | str) -> None:
    """Write one table of `config/tables.yaml` as `output`.csv, .md and .tex."""
    if record["kind"] not in KINDS:
        raise UserError(f"config/tables.yaml: table {record['id']!r} has kind {record['kind']!r}; known: {', '.join(KINDS)}")
    table = KINDS[record["kind"]](study, record)
    if not table.rows:
        table.notes.insert(0, "Nothing of this kind was measured in this suite.")
    for suffix, write in WRITERS.items():
        write(table, Path(f"{output}{suffix}"))


def accuracy(study: Study, record: dict[str, Any]) -> Table:
    """One row a method: tasks, averages, and each NAN row against its host and controls."""
    header = [
        "Method",
        *(task.get("label", task["id"]) for task in study.tasks),
        "Average",
        "95 % interval",
        "Weighted",
        "Normalised",
        "Δ to host and controls",
    ]
    table = Table(study.title(record), header, text=(0, len(header) - 1))
    for row in summarise(study):
        method = row.method
        spelt = [_estimate(table, row.tasks[task["id"]]) for task in study.tasks]
        against = {kind: [pair for pair in _pairs(study, kind) if pair["method"] == method["id"]] for kind in FAMILIES}
        table.add(
            [
                method.get("label", method["id"]),
                *spelt,
                _estimate(table, row.average),
                interval(row.average.low, row.average.high),
                _estimate(table, row.weighted),
                _estimate(table, row.normalised),
                BREAK.join(_difference(study, pair) for pairs in against.values() for pair in pairs),
            ],
            _accuracy_record(study, row, against),
            study.block(method),
        )
    table.notes = [
        "Accuracy in % on the test split"
        + (
            f", mean ± standard deviation over {len(study.seeds)} fine-tuning seeds."
            if len(study.seeds) > 1
            else "; one fine-tuning seed."
        ),
        "Average: over tasks. Weighted: by training-set size. Normalised: mean over tasks of accuracy / "
        "accuracy of the individual model, in %.",
        INTERVAL_NOTE,
        PAIRED_NOTE.format(size=family_size(study)),
        *(f"Task {study.label(entry['task'])} was skipped: {entry['reason']}." for entry in study.suite.get("skipped", [])),
    ]
    return table


def _estimate(table: Table, estimate: Estimate) -> str:
    spread = estimate.deviation
    text = percent(estimate.value) + (f" ± {percent(spread)}" if spread is not None else "")
    return table.mark(text, _sentence(estimate.reason))


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _pairs(study: Study, kind: str, task: str = "average") -> list[dict[str, str]]:
    return [row for row in study.comparisons if row["kind"] == kind and row["task"] == task]


def family_size(study: Study) -> int:
    """Return how many host and control comparisons share one Holm adjustment."""
    return sum(number(row, "p") is not None for kind in FAMILIES for row in _pairs(study, kind))


def _difference(study: Study, pair: dict[str, str]) -> str:
    name = f"{study.label(pair['against'])}: "
    if number(pair, "difference") is None:
        return f"{name}not compared"
    if number(pair, "changed") == 0:
        return f"{name}0.0, same predictions"
    p = p_value(number(pair, "p_holm")).replace("<", "< ")
    return f"{name}{percent(number(pair, 'difference'), signed=True)} {_limits(pair)} p {p}"


def _accuracy_record(study: Study, row: Any, against: dict[str, list[dict[str, str]]]) -> dict[str, Any]:
    """Return fractions, unrounded, and the same in per cent, named so."""
    record: dict[str, Any] = {
        "suite": study.suite["id"],
        "method": row.method["id"],
        "label": row.method.get("label"),
        "group": row.method.get("group"),
    }
    for name, estimate in [
        *row.tasks.items(),
        ("average", row.average),
        ("weighted_average", row.weighted),
        ("normalised_average", row.normalised),
    ]:
        record |= {
            name: estimate.value,
            f"{name}_low": estimate.low,
            f"{name}_high": estimate.high,
            f"{name}_sd_over_seeds": estimate.deviation,
            f"{name}_percent": percent(estimate.value).replace("−", "-"),
            f"{name}_remark": estimate.reason,
        }
    numbered = [("host", pair) for pair in against["host"]]
    numbered += [(f"control_{index}", pair) for index, pair in enumerate(against["control"], 1)]
    for name, pair in numbered:
        record |= {
            name: pair["against"],
            **{
                f"{name}_{column}": pair[column]
                for column in ("difference", "low", "high", "p", "p_holm", "discordant", "changed")
            },
        }
    return record


def comparisons(study: Study, record: dict[str, Any]) -> Table:
    """One row a compared pair, host and control comparisons first; the verdict joins test and interval."""
    weighted = {
        (row["method"], row["against"], row["kind"]): row for row in study.comparisons if row["task"] == "weighted_average"
    }
    table = Table(
        study.title(record),
        [
            "Method",
            "Against",
            "Kind",
            "Verdict",
            "Δ average",
            "95 % interval",
            "p",
            "p (Holm)",
            "Discordant",
            "Changed",
            "Predictions",
            *(["Δ weighted"] if weighted else []),
        ],
        text=(0, 1, 2, 3),
    )
    plain = [row for row in study.comparisons if row["task"] == "average"]
    for row in sorted(plain, key=lambda row: "" if row["kind"] in FAMILIES else row["kind"]):
        other = weighted.get((row["method"], row["against"], row["kind"]), {})
        cells = [
            study.label(row["method"]),
            study.label(row["against"]),
            row["kind"],
            verdict(row),
            percent(number(row, "difference"), signed=True),
            _limits(row),
            p_value(number(row, "p")),
            p_value(number(row, "p_holm")),
            count(row["discordant"]),
            count(row["changed"]),
            count(row["n"]),
        ]
        if weighted:
            cells.append(f"{percent(number(other, 'difference'), signed=True)} {_limits(other)}".strip())
        if number(row, "difference") is None:
            cells[4] = table.mark(cells[4], "Not compared: the two methods have no seed with scores of every task in common.")
        more = {f"weighted_{name}": other.get(name) for name in ("difference", "low", "high", "p", "p_holm") if weighted}
        table.add(cells, {**row, **more, "verdict": verdict(row)}, "" if row["kind"] in FAMILIES else row["kind"])
    table.notes = [
        PAIRED_NOTE.format(size=family_size(study)) + " Other kinds of pairs are adjusted among themselves.",
        "Discordant: predictions of which just one method's is correct. Changed: predictions that differ at all. Without a "
        "discordant example the interval is the exact 95 % bound on the share of discordant examples.",
        f'Verdict on "the method is above the other": "{HOLDS}" or "{FAILS}" only with p (Holm) < 0.05 and an interval on one '
        f'side of 0, or, for "{FAILS}", without a single discordant example. Otherwise "{UNDECIDED}", which is no statement '
        "of equality.",
    ]
    if weighted:
        table.notes.append(
            "Δ weighted: average weighted by training-set size; p-values of these are in the CSV file, adjusted among themselves."
        )
    return table


def _limits(row: dict[str, str]) -> str:
    return interval(number(row, "low"), number(row, "high"), signed=True)


KINDS: dict[str, Callable[[Study, dict[str, Any]], Table]] = {
    "accuracy": accuracy,
    "comparisons": comparisons,
    "experts": norm_tables.experts,
    "coefficients": norm_tables.coefficients,
    "premise": norm_tables.premise,
}
