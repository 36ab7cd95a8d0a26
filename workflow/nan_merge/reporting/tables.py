"""Render the tables of config/tables.yaml; `statistics` computes the averages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nan_merge.core.errors import UserError
from nan_merge.reporting import data_tables, method_tables, norm_tables, score_tables, subset_tables
from nan_merge.reporting.formats import Table, write
from nan_merge.reporting.ranks import ranks
from nan_merge.reporting.searches import search_table
from nan_merge.reporting.study import Study


def render_table(study: Study, record: dict[str, Any], output: Path | str) -> None:
    """Write one table of `config/tables.yaml` as `output`.csv, .md and .tex."""
    if record["kind"] not in KINDS:
        raise UserError(f"config/tables.yaml: table {record['id']!r} has kind {record['kind']!r}; known: {', '.join(KINDS)}")
    table = KINDS[record["kind"]](study.only(record), record)
    if not table.rows:
        table.notes.insert(0, "This suite has no measurements of this kind.")
    write(table, output)


KINDS: dict[str, Callable[[Study, dict[str, Any]], Table]] = {
    "accuracy": score_tables.accuracy,
    "comparisons": score_tables.comparisons,
    "ranks": ranks,
    "methods": method_tables.methods,
    "scan": method_tables.scan,
    "sweep": method_tables.sweep,
    "search": search_table,
    "experts": norm_tables.experts,
    "coefficients": norm_tables.coefficients,
    "premise": norm_tables.premise,
    "data": data_tables.data,
    "subsets": subset_tables.subsets,
}
