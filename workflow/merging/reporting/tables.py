"""The tables, one function a kind: a study becomes cells. No averages here; `statistics` has computed them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from merging.reporting import norms
from merging.reporting.formats import BREAK, WRITERS, Table, count, interval, p_value, percent, signed_number
from merging.reporting.paired import FAMILIES, VERDICTS, number, verdict
from merging.reporting.records import Study
from merging.reporting.statistics import Estimate, summarise
from merging.results import UserError

INTERVAL_NOTE = ("Intervals: 95 %, test examples independent within a task; Wilson's limits of each task joined by "
                 "square-and-add (MOVER). They cover the choice of test examples, not another fine-tuning.")
PAIRED_NOTE = ("Δ: difference of the averages over tasks in percentage points, on the same examples; 95 % bootstrap "
               "interval of the examples within each task; p from a sign-flip test, adjusted with Holm's method over the "
               "{size} host and control comparisons of the suite.")


def render_table(study: Study, record: dict[str, Any], output: Path | str) -> None:
    """Write one table of `config/tables.yaml` as `output`.csv, .md and .tex."""
    if record["kind"] not in KINDS:
        raise UserError(f"config/tables.yaml: table {record['id']!r} has kind {record['kind']!r}; known: {', '.join(KINDS)}")
    table = KINDS[record["kind"]](study, record)
    if not table.rows:
        table.notes.insert(0, "Nothing of this kind was measured in this suite.")
    for suffix, write in WRITERS.items():
        write(table, Path(f"{output}{suffix}"))


def _title(study: Study, record: dict[str, Any]) -> str:
    return f"{record['title']}: {study.suite.get('label', study.suite['id'])}"


def accuracy(study: Study, record: dict[str, Any]) -> Table:
    """One row a method: tasks, averages, and each NAN row against its host and controls."""
    header = ["Method", *(task.get("label", task["id"]) for task in study.tasks), "Average", "95 % interval", "Weighted",
              "Normalised", "Δ to host and controls"]
    table = Table(_title(study, record), header, text=(0, len(header) - 1))
    for row in summarise(study):
        method = row.method
        spelt = [_estimate(table, row.tasks[task["id"]]) for task in study.tasks]
        against = {kind: [pair for pair in _pairs(study, kind) if pair["method"] == method["id"]] for kind in FAMILIES}
        table.add(
            [method.get("label", method["id"]), *spelt, _estimate(table, row.average),
             interval(row.average.low, row.average.high), _estimate(table, row.weighted), _estimate(table, row.normalised),
             BREAK.join(_difference(study, pair) for pairs in against.values() for pair in pairs)],
            _accuracy_record(study, row, against), block(study, method))
    table.notes = ["Accuracy in % on the test split"
                   + (f", mean ± standard deviation over {len(study.seeds)} fine-tuning seeds." if len(study.seeds) > 1
                      else "; one fine-tuning seed."),
                   "Average: over tasks. Weighted: by training-set size. Normalised: mean over tasks of accuracy / "
                   "accuracy of the individual model, in %.",
                   INTERVAL_NOTE,
                   PAIRED_NOTE.format(size=family_size(study)),
                   *(f"Task {study.label(entry['task'])} was skipped: {entry['reason']}."
                     for entry in study.suite.get("skipped", []))]
    return table


def block(study: Study, method: dict[str, Any]) -> str:
    """Return the last method up to this one that stands alone: a rule precedes each such block of rows.

    A method that has a host or is a control belongs to the block above it.
    """
    controls = {control for other in study.methods for control in other.get("controls") or []}
    alone = ""
    for other in study.methods:
        if not other.get("host") and other["id"] not in controls:
            alone = other["id"] if alone == "" or before_derived else alone
            before_derived = False
        else:
            before_derived = True
        if other["id"] == method["id"]:
            break
    return alone


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
    limits = interval(number(pair, "low"), number(pair, "high"), signed=True)
    p = p_value(number(pair, "p_holm"))
    return f"{name}{percent(number(pair, 'difference'), signed=True)} {limits} p {p.replace('<', '< ')}"


def _accuracy_record(study: Study, row: Any, against: dict[str, list[dict[str, str]]]) -> dict[str, Any]:
    """Return fractions, unrounded, and the same in per cent, named so."""
    record: dict[str, Any] = {"suite": study.suite["id"], "method": row.method["id"],
                              "label": row.method.get("label"), "group": row.method.get("group")}
    for name, estimate in [*row.tasks.items(), ("average", row.average), ("weighted_average", row.weighted),
                           ("normalised_average", row.normalised)]:
        record |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high,
                   f"{name}_sd_over_seeds": estimate.deviation, f"{name}_percent": percent(estimate.value).replace("−", "-"),
                   f"{name}_remark": estimate.reason}
    numbered = [("host", pair) for pair in against["host"]]
    numbered += [(f"control_{index}", pair) for index, pair in enumerate(against["control"], 1)]
    for name, pair in numbered:
        record |= {name: pair["against"], **{f"{name}_{column}": pair[column] for column in
                                             ("difference", "low", "high", "p", "p_holm", "discordant", "changed")}}
    return record


def comparisons(study: Study, record: dict[str, Any]) -> Table:
    """One row a compared pair, host and control comparisons first; the verdict joins test and interval."""
    table = Table(_title(study, record), ["Method", "Against", "Kind", "Δ average", "95 % interval", "p", "p (Holm)",
                                          "Discordant", "Changed", "Predictions", "Δ weighted", "Verdict"], text=(0, 1, 2, 11))
    weighted = {(row["method"], row["against"], row["kind"]): row for row in study.comparisons
                if row["task"] == "weighted_average"}
    plain = [row for row in study.comparisons if row["task"] == "average"]
    for row in sorted(plain, key=lambda row: ("" if row["kind"] in FAMILIES else row["kind"])):
        other = weighted.get((row["method"], row["against"], row["kind"]), {})
        limits = interval(number(row, "low"), number(row, "high"), signed=True)
        cells = [study.label(row["method"]), study.label(row["against"]), row["kind"],
                 percent(number(row, "difference"), signed=True), limits, p_value(number(row, "p")),
                 p_value(number(row, "p_holm")), count(row["discordant"]), count(row["changed"]), count(row["n"]),
                 f"{percent(number(other, 'difference'), signed=True)} "
                 f"{interval(number(other, 'low'), number(other, 'high'), signed=True)}".strip(), verdict(row)]
        if number(row, "difference") is None:
            cells[3] = table.mark(cells[3], "Not compared: the two methods have no seed with scores of every task in common.")
        table.add(cells, {**row, "weighted_difference": other.get("difference"), "weighted_low": other.get("low"),
                          "weighted_high": other.get("high"), "weighted_p_holm": other.get("p_holm"),
                          "verdict": verdict(row)}, row["kind"] if row["kind"] not in FAMILIES else "nan")
    table.notes = [
        PAIRED_NOTE.format(size=family_size(study))
        + " Other kinds of pairs are adjusted among themselves.",
        "Discordant: predictions of which just one method's is correct. Changed: predictions that differ at all. Without a "
        "discordant example the interval is the exact 95 % bound on the share of discordant examples.",
        f"Verdict on \"the method is above the other\": {VERDICTS[0]} or {VERDICTS[1]} only with p (Holm) < 0.05 and an "
        f"interval on one side of 0, or, for {VERDICTS[1]!r}, without a single discordant example. Otherwise "
        f"{VERDICTS[2]!r}, which is no statement of equality.".replace("'", '"'),
        "Δ weighted: average weighted by training-set size; Holm-adjusted p-values of these are in the CSV file."]
    return table


def experts(study: Study, record: dict[str, Any]) -> Table:
    """One row an expert: data, norms and the NAN shares (p = 1, whole model) that follow from them."""
    table = Table(_title(study, record), ["Expert", "Training examples", "Share of data", "‖W‖", "‖τ‖", "‖τ‖ / ‖W‖ in %",
                                          "α from ‖W‖", "α from ‖τ‖"])
    measured = norms.experts(study)
    total = sum(study.sizes.values())
    for expert, row in measured.items():
        size = study.sizes.get(expert)
        share = size / total if size and len(study.sizes) == len(study.tasks) else None
        digits = {"weights": 4, "task_vector": 4, "ratio": 3, "alpha_weights": 6, "alpha_task_vector": 4}
        cells = [study.label(expert), count(size), "" if share is None else f"{share:.4f}",
                 *(_spread(row[key] * (100 if key == "ratio" else 1), places) for key, places in digits.items())]
        table.add(cells, {"expert": expert, "train": size, "share_of_data": share,
                          **{key: float(np.mean(row[key])) for key in digits}})
    table.notes = ["Norms: Frobenius, over all measured tensors, in double precision; W are the expert's weights, τ its task "
                   "vector (expert minus base). α: (1/norm) / Σ (1/norm), sums to 1."
                   + (" Mean ± standard deviation over fine-tuning seeds." if len(study.measures) > 1 else "")]
    return table


def coefficients(study: Study, record: dict[str, Any]) -> Table:
    """One row a method: its coefficients as shares, their largest ratio and their entropy."""
    names = list(dict.fromkeys(expert for table in study.coefficients for expert in table["experts"]))
    table = Table(_title(study, record), ["Method", "Scope", "Rows", "Mean c", *(f"α {study.label(name)}" for name in names),
                                          "max / min", "Entropy"], text=(0, 1))
    for method in study.methods:
        shares = norms.shares(study, method["id"])
        if shares is None:
            continue
        spelt = [f"{share:.4f}" for share in shares.mean]
        entropy = table.mark("", "Not defined: a coefficient is not positive.") if shares.entropy is None else \
            _range(shares.entropy, 4)
        ratio = "" if shares.ratio is None else _range(shares.ratio, 3)
        table.add([method.get("label", method["id"]), shares.scope, count(shares.rows), f"{shares.coefficient:.4f}", *spelt,
                   ratio, entropy],
                  {"method": method["id"], "scope": shares.scope, "rows": shares.rows, "mean_coefficient": shares.coefficient,
                   **{f"alpha_{name}": float(share) for name, share in zip(names, shares.mean, strict=True)},
                   **norms.extent("max_over_min", shares.ratio), **norms.extent("entropy", shares.entropy)},
                  block(study, method))
    table.notes = ["c: coefficient of a task vector; α = c / Σ c over the experts, mean over rows (layers or tensors) and seeds. "
                   "max / min: largest over smallest coefficient. Entropy: −Σ α log α / log T, 1 for uniform coefficients. "
                   "With several rows: mean, in brackets the range over rows."]
    return table


def premise(study: Study, record: dict[str, Any]) -> Table:
    """One row a probe: the same task fine-tuned on nested subsets, at equal steps and at equal epochs."""
    table = Table(_title(study, record), ["Task", "Protocol", "Examples", "Steps", "‖W‖", "‖τ‖", "Accuracy"], text=(0, 1))
    order = sorted(study.premise, key=lambda row: (row["task"], row["protocol"] != "steps", int(row["examples"]), row["seed"]))
    for row in order:
        table.add([study.label(row["task"]), f"equal {row['protocol']}", count(row["examples"]), count(row["steps"]),
                   f"{float(row['norm_weights']):.4f}", f"{float(row['norm_task_vector']):.4f}",
                   percent(float(row["accuracy"]))], dict(row), (row["task"], row["protocol"]))
    table.notes = ["Nested subsets of one training set, same base and recipe; accuracy in %."]
    return table


def _spread(values: np.ndarray, digits: int) -> str:
    text = signed_number(float(np.mean(values)), digits, signed=False)
    return f"{text} ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else text


def _range(values: np.ndarray, digits: int) -> str:
    mean = f"{np.mean(values):.{digits}f}"
    low, high = float(np.min(values)), float(np.max(values))
    return mean if math.isclose(low, high, rel_tol=1e-12) else f"{mean} [{low:.{digits}f}, {high:.{digits}f}]"


KINDS: dict[str, Callable[[Study, dict[str, Any]], Table]] = {
    "accuracy": accuracy, "comparisons": comparisons, "experts": experts, "coefficients": coefficients, "premise": premise,
}
