"""Sampling errors of printed numbers, and what follows from them; only where the record states the `examples` of its tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from scipy.special import ndtri

from nan_merge.reporting.formats import count, signed_number
from nan_merge.reporting.published.blocks import Block, Key, Row
from nan_merge.reporting.published.numbers import MEANS, Printed
from nan_merge.reporting.published.sources import Source
from nan_merge.reporting.statistics import LEVEL, Estimate

Z = float(ndtri((1 + LEVEL) / 2))


def errors(record: Mapping[str, Any], row: Row) -> dict[Key, float]:
    """Return the binomial standard errors of a printed row in percentage points, sqrt(p (1 - p) / n), by suite and task.

    The mean over tasks has one if all printed tasks of the table have.
    """
    found = {key: _error(number, record) for key, number in row.items() if number.task in record.get("examples", {})}
    for key, number in row.items():
        parts = [found.get((number.suite, task)) for task in record["tasks"]]
        known = [part for part in parts if part is not None]
        if number.task == "average" and parts and len(known) == len(parts):
            found[key] = math.hypot(*known) / len(parts)
    return found


def _error(number: Printed, record: Mapping[str, Any]) -> float:
    share = min(1.0, max(0.0, number.value / 100))
    return 100 * math.sqrt(share * (1 - share) / record["examples"][number.task])


def unmet(record: Mapping[str, Any], block: Block, source: Source) -> dict[Key, str]:
    """Return the columns in which merges cannot be compared, with the reason: an individual model is not what was printed.

    It is if its difference lies within the tolerance, or within the 95 % limits of the sampling errors of both numbers.
    Without that, task or protocol differ, and so does every merge.
    """
    reasons: dict[Key, list[str]] = {}
    for label, row in block.rows.items():
        for key, error in errors(record, row).items():
            number, study = row[key], source.studies.get(key[0])
            own = study and number.method in study.uppers and number.collection == source.collection
            if own and number.task not in MEANS:
                told = _distance(number, label, error, source.estimate(key[0], number.method, key[1]), record)
                reasons.setdefault(key, []).extend([told] * bool(told))
    found = {key: f"{record['tasks'][key[1]]}: {'; '.join(told)}." for key, told in reasons.items() if told}
    means = {key: " ".join(why for other, why in found.items() if other[0] == key[0]) for key in block.keys if key[1] in MEANS}
    return {**found, **{key: why for key, why in means.items() if why}}


def _distance(number: Printed, label: str, error: float, estimate: Estimate, record: Mapping[str, Any]) -> str:
    """Say how far an individual model is from its printed number; empty if it is met."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return f"{label} was not measured, so it is not known whether this is the printed task and protocol"
    difference = 100 * estimate.value - number.value
    own = 100 * (estimate.high - estimate.low) / (2 * Z)
    limit = max(float(record["tolerance"]["task"]), Z * math.hypot(error, own))
    if abs(difference) <= limit:
        return ""
    return f"{label} is {100 * estimate.value:.1f} here and {number.text} in print, and sampling explains {limit:.1f} points"


def sampling_notes(record: Mapping[str, Any], blocks: list[Block]) -> list[str]:
    """Explain the errors, and give printed differences of variants from their hosts with errors; none without `examples`."""
    if not record.get("examples"):
        return []
    sizes = ", ".join(f"{label} {count(record['examples'][task])}" for task, label in record["tasks"].items())
    return [
        f"± of a printed number is its standard error by the size of the test set, √(p(1 − p)/n), {sizes}; that of a printed "
        "difference takes the samples as independent, so it is too large where two models answer many examples alike.",
        *(_gain(record, block, label, host) for block in blocks for label, host in _variants(block)),
    ]


def _variants(block: Block) -> list[tuple[str, str]]:
    """Return the labels of printed rows `host+variant`, each with that of the row of its host, that share several tasks."""
    methods = {next(iter(row.values())).method: label for label, row in block.rows.items()}
    pairs = [(label, methods.get(method.rpartition("+")[0], "")) for method, label in methods.items() if "+" in method]
    return [(label, host) for label, host in pairs if host and len(_shared(block.rows[label], block.rows[host])) > 1]


def _shared(new: Row, old: Row) -> list[Key]:
    return [key for key in new if key in old and key[1] not in MEANS]


def _gain(record: Mapping[str, Any], block: Block, label: str, host: str) -> str:
    """Give the differences of two printed rows by task and on average, and the averages without the task that differs most."""
    new, old = block.rows[label], block.rows[host]
    wide, narrow = errors(record, new), errors(record, old)
    keys = _shared(new, old)
    gains = {key: new[key].value - old[key].value for key in keys}
    error = {key: math.hypot(wide[key], narrow[key]) for key in keys}
    each = ", ".join(f"{record['tasks'][key[1]]} {signed_number(gains[key], 1)} ± {error[key]:.1f}" for key in keys)
    mean, spread = sum(gains.values()) / len(keys), math.hypot(*error.values()) / len(keys)
    most = max(keys, key=lambda key: abs(gains[key]))
    rest = [[row[key].value for key in keys if key != most] for row in (old, new)]
    before, after = (sum(values) / len(values) for values in rest)
    lead = f"{block.label}, " * bool(block.label)
    return (
        f"{lead}printed, {label} − {host}: {each}; mean {signed_number(mean, 1)} ± {spread:.1f}. Without "
        f"{record['tasks'][most[1]]}, where they differ most, {host} averages {before:.1f} and {label} {after:.1f}."
    )
