"""Render a printed table with the measured numbers beside it, one table for all suites of a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nan_merge.reporting.formats import Table, percent, signed_number, write
from nan_merge.reporting.published.numbers import (
    AVERAGE,
    MEANS,
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
from nan_merge.reporting.published.sources import Source, sources
from nan_merge.reporting.statistics import Estimate
from nan_merge.reporting.study import Study
from nan_merge.reporting.table_parts import INTERVAL_NOTE, limits, sentence

Key = tuple[str, str]  # printed suite and task of a column
Row = dict[Key, Printed]


class Block(NamedTuple):
    """Rows that share their columns: those of one printed suite, or of all."""

    label: str
    keys: list[Key]
    rows: dict[str, Row]  # by label


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
    rows.table.notes = remarks(record, printed, used) + [INTERVAL_NOTE] * (rows.interval and bool(used))
    return rows.table


def _in_print(labels: dict[str, str], printed: Sequence[Printed], column: str) -> dict[str, str]:
    """Return labels of tasks or suites in the order of print, which a record in canonical JSON has lost."""
    order = list(dict.fromkeys(getattr(number, column) for number in printed))
    return {name: labels[name] for name in sorted(labels, key=lambda name: order.index(name) if name in order else len(order))}


class _Rows:
    """Adds blocks of rows to a table, and collects one line a number for the CSV file."""

    def __init__(self, record: dict[str, Any], printed: Sequence[Printed]) -> None:
        """Lay out columns and blocks: tasks, with a block a suite, or suites; columns without a number are left out."""
        self.record, self.general, self.lines = record, shared(printed), list[dict[str, Any]]()
        names = {**_in_print(record["tasks"], printed, "task"), **MEANS}
        suites = _in_print(record["suites"], printed, "suite")
        shown = {(number.suite, number.task) for number in printed}
        if record.get("columns") == "suites":
            keys = [(suite, task) for suite in suites for task in names if (suite, task) in shown]
            self.labels = [suites[suite] for suite, _ in keys]
            self.blocks = [Block("", keys, _by_label(printed))]
        else:
            tasks = [task for task in names if any(task == other for _, other in shown)]
            self.labels = [names[task] for task in tasks]
            self.blocks = [
                Block(label, [(suite, task) for task in tasks], _by_label(n for n in printed if n.suite == suite))
                for suite, label in suites.items()
            ]
        self.lead = ["Models"] * any(block.label for block in self.blocks) + ["Method", "Numbers"]
        self.interval = len(self.lead) > 2 and any(task == AVERAGE for _, task in shown)
        header = [*self.lead, *self.labels, *["95 % interval"] * self.interval, "Verdict"]
        self.table = Table(record["title"], header, text=(*range(len(self.lead)), len(header) - 1))

    def add(self, block: Block, here: Sequence[Source]) -> None:
        """Add the printed rows of a block, each followed by measured rows, then the methods that are only measured."""
        for label, row in block.rows.items():
            self._printed(block, label, row)
            method = next(iter(row.values())).method
            beside = [source for source in here if method and source.shows(block.keys, method)]
            for source in beside:
                self._measured(block, source, method, row)
            alone = [number for (suite, _), number in row.items() if not any(suite in source.studies for source in beside)]
            self.lines += [self._line((number.suite, number.task), number) for number in alone]
        known = {number.method for row in block.rows.values() for number in row.values()}
        studies = [study for source in here for study in source.studies.values()]
        for method in dict.fromkeys(method["id"] for study in studies for method in study.only(self.record).methods):
            for source in here if method not in known else ():
                if source.shows(block.keys, method, skipped=False):
                    self._measured(block, source, method, {})

    def _printed(self, block: Block, label: str, row: Row) -> None:
        """Add a printed row; a note of all its numbers marks its label, any other note its number."""
        own = shared(row.values())
        name = self._noted(label, [note for note in own if note not in self.general])
        cells = []
        for number in map(row.get, block.keys):
            cell = self._noted(number.text, [note for note in number.notes if note not in own]) if number else ""
            mean = recomputed(number, row.values(), self.record["tasks"]) if number else None
            cells.append(
                cell if mean is None else _mark(self.table, cell, f"The mean of the printed tasks is {mean + 1e-9:.2f}.")
            )
        collections = ", ".join(dict.fromkeys(number.collection for number in row.values()))
        self._row(block, "printed", [name, f"published, {collections}"], cells)

    def _measured(self, block: Block, source: Source, method: str, row: Row) -> None:
        """Add the measured row of a method in one collection, with the difference from the printed row."""
        cells, verdicts, average = [], list[str](), Estimate(None)
        for key in block.keys:
            number, estimate = row.get(key), source.estimate(key[0], method, key[1])
            judged = judge(number, estimate, source.collection, self.record)
            cells.append(_cell(self.table, estimate, judged, number.digits if number else 1))
            verdicts.append(judged.verdict)
            average = estimate if key[1] == AVERAGE else average
            if key[0] in source.studies and (number or estimate.value is not None):
                self.lines.append(self._line(key, number, source, method, judged))
        name = next(iter(source.studies.values())).label(method)
        for why in dict.fromkeys(unlike(self.record, suite, method) for suite, _ in row if suite in source.studies):
            name = _mark(self.table, name, why) if UNLIKE in verdicts else name
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


def _by_label(printed: Iterable[Printed]) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for number in printed:
        rows.setdefault(number.label, {})[number.suite, number.task] = number
    return rows


def _mark(table: Table, text: str, footnote: str) -> str:
    """Mark a text that may have a mark already."""
    return table.mark(f"{text} " if footnote and text.endswith("^") else text, footnote)


def _cell(table: Table, estimate: Estimate, judged: Judged, digits: int) -> str:
    """Format a measured number with its spread over seeds and its difference from the printed one, in points."""
    text = percent(estimate.value, digits)
    text += f" ± {percent(estimate.deviation, digits)}" if estimate.deviation is not None else ""
    text += f" ({signed_number(judged.difference, digits)})" if judged.difference is not None else ""
    return table.mark(text, sentence(estimate.reason))
