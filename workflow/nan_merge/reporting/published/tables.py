"""Render a printed table with the measured numbers beside it, one table for all suites of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nan_merge.reporting.formats import Table, percent, signed_number, write
from nan_merge.reporting.published.blocks import Block, Key, Row, blocks
from nan_merge.reporting.published.numbers import (
    AVERAGE,
    MEANS,
    NOT_COMPARABLE,
    NOT_PRINTED,
    UNLIKE,
    Judged,
    Printed,
    check,
    judge,
    read_published,
    recomputed,
    shared,
    unlike,
)
from nan_merge.reporting.published.remarks import remarks, row_verdict
from nan_merge.reporting.published.sampling import errors, sampling_notes, unmet
from nan_merge.reporting.published.sources import Source, sources
from nan_merge.reporting.statistics import Estimate
from nan_merge.reporting.study import Study
from nan_merge.reporting.table_parts import interval_notes, limits, sentence


def render_published(record: dict[str, Any], numbers: Path | str, studies: Sequence[Study], output: Path | str) -> None:
    """Write one record of `published` in config/tables.yaml as `output`.csv, .md and .tex."""
    write(published(record, read_published(numbers), studies), output)


def published(record: dict[str, Any], numbers: Sequence[Printed], studies: Sequence[Study]) -> Table:
    """Return a printed table: a row a printed method, below it a row of measured numbers for each collection."""
    printed = [number for number in numbers if number.table == record["id"]]
    check(record, printed)
    rows = _Rows(record, printed)
    used = []
    for block in rows.blocks:
        here = sources({suite for suite, _ in block.keys}, studies, numbers)
        own = {number.collection for row in block.rows.values() for number in row.values()}
        here.sort(key=lambda source: source.collection not in own)
        used += here
        rows.add(block, here)
    rows.table.records = rows.lines
    rows.table.notes = [
        *remarks(record, printed, used),
        *sampling_notes(record, rows.blocks),
        *(interval_notes(*(study for source in used for study in source.studies.values())) if rows.interval and used else []),
    ]
    return rows.table


class _Rows:
    """Adds blocks of rows to a table, and collects one line a number for the CSV file."""

    def __init__(self, record: dict[str, Any], printed: Sequence[Printed]) -> None:
        """Lay out the columns."""
        self.record, self.general, self.lines = record, shared(printed), list[dict[str, Any]]()
        self.labels, self.blocks = blocks(record, printed)
        rows = [row for block in self.blocks for row in block.rows.values()]
        self.errors = {row[key]: error for row in rows for key, error in errors(record, row).items()}
        self.lead = ["Models"] * any(block.label for block in self.blocks) + ["Method", "Numbers"]
        self.interval = len(self.lead) > 2 and any(number.task == AVERAGE for number in printed)
        header = [*self.lead, *self.labels, *["95 % interval"] * self.interval, "Verdict"]
        self.table = Table(record["title"], header, text=(*range(len(self.lead)), len(header) - 1))

    def add(self, block: Block, here: Sequence[Source]) -> None:
        """Add the printed rows of a block, each followed by measured rows, then the methods that are only measured."""
        for label, row in block.rows.items():
            self._printed(block, label, row)
            method = next(iter(row.values())).method
            beside = [source for source in here if method and source.shows(block.keys, method)]
            for source in beside:
                self._measured(block, source, method, row, unmet(self.record, block, source) if source.merges(method) else {})
            alone = [number for (suite, _), number in row.items() if not any(suite in source.studies for source in beside)]
            self.lines += [self._line((number.suite, number.task), number) for number in alone]
        known = {number.method for row in block.rows.values() for number in row.values()}
        studies = [study for source in here for study in source.studies.values()]
        for method in dict.fromkeys(method["id"] for study in studies for method in study.only(self.record).methods):
            for source in here if method not in known else ():
                if source.shows(block.keys, method, skipped=False):
                    self._measured(block, source, method, {}, {})

    def _printed(self, block: Block, label: str, row: Row) -> None:
        """Add a printed row; a note of all its numbers marks its label, any other note its number."""
        own = shared(row.values())
        name = self._noted(label, [note for note in own if note not in self.general])
        cells = []
        for number in map(row.get, block.keys):
            text = number.text + (f" ± {self.errors[number]:.1f}" if number in self.errors else "") if number else ""
            cell = self._noted(text, [note for note in number.notes if note not in own]) if number else ""
            mean = recomputed(number, row.values(), self.record["tasks"]) if number else None
            cells.append(
                cell if mean is None else _mark(self.table, cell, f"The mean of the printed tasks is {mean + 1e-9:.2f}.")
            )
        collections = ", ".join(dict.fromkeys(number.collection for number in row.values()))
        self._row(block, "printed", [name, f"published, {collections}"], cells)

    def _measured(self, block: Block, source: Source, method: str, row: Row, lacking: Mapping[Key, str]) -> None:
        """Add the measured row of a method in one collection, with the difference from the printed row.

        `lacking` are the columns that cannot be compared.
        """
        cells, verdicts, average = [], list[str](), Estimate(None)
        for key in block.keys:
            number, estimate = row.get(key), source.estimate(key[0], method, key[1])
            judged = judge(number, estimate, source.collection, self.record, key in lacking)
            cells.append(_cell(self.table, estimate, judged, number.digits if number else 1))
            verdicts.append(judged.verdict)
            average = estimate if key[1] == AVERAGE else average
            if key[0] in source.studies and (number or estimate.value is not None):
                self.lines.append(self._line(key, number, source, method, judged))
        name = next(iter(source.studies.values())).label(method)
        for why in dict.fromkeys(unlike(self.record, suite, method) for suite, _ in row if suite in source.studies):
            name = _mark(self.table, name, why) if {UNLIKE, NOT_COMPARABLE} & {*verdicts} else name
        for why in (lacking[key] for key in block.keys if key in lacking and key[1] not in MEANS):
            name = _mark(self.table, name, why) if NOT_COMPARABLE in verdicts else name
        interval = limits(self.table, average) if self.interval else ""
        verdict = row_verdict(self.labels, verdicts) if row else NOT_PRINTED
        self._row(block, "printed" if row else "more", [name, f"measured, {source.collection}"], cells, interval, verdict)

    def _row(self, block: Block, kind: str, names: list[str], cells: list[str], interval: str = "", verdict: str = "") -> None:
        lead = [block.label, *names][-len(self.lead) :]
        self.table.add([*lead, *cells, *[interval] * self.interval, verdict], {}, (block.label, kind))

    def _noted(self, text: str, notes: Iterable[str]) -> str:
        for note in notes:
            text = _mark(self.table, text, self.record["notes"][note])
        return text

    def _line(
        self, key: Key, number: Printed | None, source: Source | None = None, method: str = "", judged: Judged | None = None
    ) -> dict[str, Any]:
        """Return one line of the CSV file, in per cent; measured numbers are not rounded."""
        (suite, task), judged = key, judged or Judged()
        study = source.studies.get(suite) if source else None
        estimate = source.estimate(suite, method, task) if source else Estimate(None)
        value, low, high = (None if part is None else 100 * part for part in estimate[:3])
        return {
            "table": self.record["id"],
            "suite": suite,
            "collection_published": number.collection if number else None,
            "suite_measured": study.suite["id"] if study else None,
            "collection_measured": source.collection if source and study else None,
            "method": method or (number.method if number else None),
            "label": number.label if number else None,
            "task": task,
            "published": number.text if number else None,
            "published_error": self.errors.get(number) if number else None,
            "measured": value,
            "low": low,
            "high": high,
            "n": source.examples(suite, method, task) if source and value is not None else None,
            "difference": judged.difference,
            "tolerance": judged.tolerance,
            "verdict": judged.verdict or (NOT_PRINTED if number is None else ""),
            "source": number.source if number else None,
            "note": " ".join(number.notes) if number else None,
            "remark": estimate.reason,
        }


def _mark(table: Table, text: str, footnote: str) -> str:
    """Mark a text that may have a mark already."""
    return table.mark(f"{text} " if footnote and text.endswith("^") else text, footnote)


def _cell(table: Table, estimate: Estimate, judged: Judged, digits: int) -> str:
    """Format a measured number with its spread over seeds and its difference from the printed one, in points."""
    text = percent(estimate.value, digits)
    text += f" ± {percent(estimate.deviation, digits)}" if estimate.deviation is not None else ""
    text += f" ({signed_number(judged.difference, digits)})" if judged.difference is not None else ""
    return table.mark(text, sentence(estimate.reason))
