"""Verdicts of rows and notes of a printed table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from nan_merge.reporting.formats import count
from nan_merge.reporting.published.numbers import NOT_COMPARABLE, OTHERS, OUTSIDE, UNLIKE, WITHIN, Printed, shared
from nan_merge.reporting.published.sources import Source

READ = "Numbers in %, as printed; the letter names the collection of checkpoints."
MEASURED = (
    "Measured: on the test split, in brackets the difference from the printed number in percentage points, after rounding to "
    "its digits."
)

UNMET = (
    f"{NOT_COMPARABLE.capitalize()}: a merge on a task on which an individual model is further from print than tolerance and "
    "sampling (95 %) explain, or was not measured; task, prompt or checkpoint is another there."
)


def row_verdict(labels: Sequence[str], verdicts: Sequence[str]) -> str:
    """Join the verdicts of a row: columns are named where the row has other verdicts too."""
    distinct = {verdict for verdict in verdicts if verdict}
    parts = []
    for verdict in (OUTSIDE, NOT_COMPARABLE, OTHERS, UNLIKE):
        columns = [label for label, of_column in zip(labels, verdicts, strict=True) if of_column == verdict]
        parts += [verdict if distinct == {verdict} else f"{verdict}: {', '.join(columns)}"] * bool(columns)
    return "; ".join(parts) or (WITHIN if distinct else "")


def remarks(record: dict[str, Any], printed: Sequence[Printed], used: Sequence[Source]) -> list[str]:
    """Return the notes: how to read the table, its collections and suites, its sources."""
    collections = dict.fromkeys([number.collection for number in printed] + [source.collection for source in used])
    known = [f"{name}: {record['collections'][name]}." for name in collections if name in record["collections"]]
    measured = [
        f"Measured, {source.collection}: {study.suite.get('label', study.suite['id'])} (suite {study.suite['id']}), "
        f"{count(sum({row.task: row.n for row in study.reported()}.values()))} test examples."
        for source in used
        for study in source.studies.values()
    ]
    return [
        *([] if used else ["Nothing of this table was measured in this run."]),
        *(record["notes"][note] for note in shared(printed)),
        READ,
        *([MEASURED, _judged(record["tolerance"], printed), *[UNMET] * ("examples" in record)] if used else []),
        *known,
        *measured,
        f"Printed in: {'; '.join(_origins(printed))}.",
    ]


def _judged(tolerance: dict[str, Any], printed: Iterable[Printed]) -> str:
    """Explain the verdicts, with the tolerances of printed methods that have their own."""
    own = tolerance.get("methods", {})
    labels: dict[str, dict[str, None]] = {}
    for number in printed:
        if number.method in own:
            limits = f"{own[number.method]['average']:g} and {own[number.method]['task']:g}"
            labels.setdefault(limits, {})[number.label] = None
    exceptions = "".join(f"; {limits} for {', '.join(names)}" for limits, names in labels.items())
    return (
        f"Verdict: {WITHIN} or {OUTSIDE} a tolerance of {tolerance['average']:g} points for averages and {tolerance['task']:g} "
        f"for tasks{exceptions}. "
        f"{OTHERS.capitalize()} or {UNLIKE}: the difference is shown and not judged."
    )


def _origins(printed: Iterable[Printed]) -> list[str]:
    """Return where numbers are printed; several files of one repository as the repository."""
    files: dict[str, list[str]] = {}
    for source in dict.fromkeys(number.source for number in printed):
        repository = source.split(" ")[0] if source.startswith("github.com/") else source
        files.setdefault(repository, []).append(source)
    return [found[0] if len(found) == 1 else f"{name} ({len(found)} files, see the CSV file)" for name, found in files.items()]
