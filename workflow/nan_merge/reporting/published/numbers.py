"""Read and check printed numbers; judge measured numbers by them. Layout is in `tables`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nan_merge.core.errors import UserError
from nan_merge.core.files import read_table
from nan_merge.reporting.statistics import Estimate

COLUMNS = ("table", "suite", "collection", "method", "label", "task", "value", "source", "note")
AVERAGE, NORMALISED = "average", "normalised_average"
MEANS = {AVERAGE: "Average", NORMALISED: "Normalised average"}  # values of `task` for a printed mean over tasks
WITHIN, OUTSIDE, OTHERS, UNLIKE = "within", "outside", "other checkpoints", "other settings"
NOT_COMPARABLE = "not comparable"  # the individual models are not those in print, or were not asked in the same way
NOT_PRINTED = "not printed"
ROUNDING = 0.05  # a mean that differs more from its row is footnoted; numbers are printed with one digit


class Printed(NamedTuple):
    """One printed number in per cent; `method` is the entry of methods.yaml that it is compared with, empty for none."""

    table: str
    suite: str
    collection: str
    method: str
    label: str
    task: str
    text: str
    source: str
    notes: tuple[str, ...]

    @property
    def value(self) -> float:
        """The number."""
        return float(self.text)

    @property
    def digits(self) -> int:
        """Digits after the point that a measured number is rounded to beside it, at least one."""
        return max(1, len(self.text.partition(".")[2]))


class Judged(NamedTuple):
    """A measured number against a printed one: difference and tolerance in percentage points, None where nothing is printed."""

    difference: float | None = None
    tolerance: float | None = None
    verdict: str = ""


def read_published(path: Path | str) -> list[Printed]:
    """Read published.tsv; raises UserError with the line for a missing column, a duplicate row or a number that is not finite."""
    found: dict[tuple[str, ...], Printed] = {}
    for line, row in enumerate(read_table(path), 2):
        where = f"{path}: line {line}"
        if set(row) != set(COLUMNS) or None in row.values():
            raise UserError(f"{where}: expected the columns {', '.join(COLUMNS)}, divided by tabs; found {len(row)} of them")
        texts = {column: row[column] for column in COLUMNS if column not in ("value", "note")}
        number = Printed(**texts, text=row["value"], notes=tuple(row["note"].split()))
        if not _finite(number.text):
            raise UserError(f"{where}: value: expected a number in per cent, found {number.text!r}; leave an unknown number out")
        key = (number.table, number.suite, number.label, number.task)
        if key in found:
            raise UserError(f"{where}: {'/'.join(key)} occurs twice; keep one, or give the row another label")
        found[key] = number
    return list(found.values())


def _finite(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def check(record: Mapping[str, Any], numbers: Iterable[Printed]) -> None:
    """Raise UserError for a number whose suite, task, note or collection is not in the record of the table."""
    for number in numbers:
        names = {
            "suites": [number.suite],
            "tasks": [number.task] if number.task not in MEANS else [],
            "collections": [number.collection],
            "notes": number.notes,
        }
        for key, used in names.items():
            for name in used:
                if name not in record[key]:
                    raise UserError(
                        f"config/published.tsv: {number.table}, {number.suite}, {number.label}: {name!r} is not in "
                        f"config/tables.yaml: published: {record['id']}: {key}; known: {', '.join(record[key]) or 'none'}; "
                        "add it there or correct the row"
                    )


def judge(number: Printed | None, estimate: Estimate, collection: str, record: Mapping[str, Any], unmet: bool = False) -> Judged:
    """Compare a measured fraction with a printed percentage, and judge the difference where the two should agree.

    They should agree where the collection of checkpoints is the same, the individual models are not `unmet`, and `unlike` names
    no other settings. The measured number is rounded to the printed digits first, so that the verdict follows from the numbers
    shown.
    """
    if number is None or estimate.value is None:
        return Judged()
    difference = round(round(100 * estimate.value, number.digits) - number.value, number.digits)
    limits = record["tolerance"].get("methods", {}).get(number.method, record["tolerance"])
    limit = float(limits["average" if number.task in MEANS else "task"])
    if collection != number.collection:
        return Judged(difference, None, OTHERS)
    if unmet:
        return Judged(difference, None, NOT_COMPARABLE)
    if unlike(record, number.suite, number.method):
        return Judged(difference, None, UNLIKE)
    return Judged(difference, limit, WITHIN if abs(difference) <= limit + 1e-9 else OUTSIDE)


def shared(numbers: Iterable[Printed]) -> list[str]:
    """Return the notes that all of these numbers have."""
    notes = [number.notes for number in numbers]
    return [note for note in notes[0] if all(note in others for others in notes)] if notes else []


def unlike(record: Mapping[str, Any], suite: str, method: str) -> str:
    """Return the known differences of settings between a method and the printed one; empty for none."""
    return str(record.get("unlike", {}).get(suite, {}).get(method, ""))


def recomputed(number: Printed, row: Iterable[Printed], tasks: Iterable[str]) -> float | None:
    """Return the mean of a printed row where its printed average does not follow from it, None where it does.

    A row that lacks one of the `tasks` has no mean.
    """
    values = {other.task: other.value for other in row if other.suite == number.suite}
    tasks = list(tasks)
    if number.task != AVERAGE or not tasks or not set(tasks) <= values.keys():
        return None
    mean = sum(values[task] for task in tasks) / len(tasks)
    return mean if abs(mean - number.value) > ROUNDING + 1e-9 else None
