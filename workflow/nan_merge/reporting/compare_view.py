"""What the report shows of two methods that a reader picks: a row a task, ready to be shown, and the same as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from nan_merge.core.escape import visible
from nan_merge.reporting.formats import p_value, percent
from nan_merge.reporting.pairs import AVERAGE, Pair
from nan_merge.reporting.study import Study

CSV_COLUMNS = ["suite", *(field for field in Pair._fields)]


def comparison_data(study: Study, pairs: Sequence[Pair], examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what the script of the page needs, in which every number is the text to show.

    `pairs` holds, by two indices among `methods` as `0,1`, rows of task, difference, low, high, gained, lost, changed, n and p.
    """
    ids = [method["id"] for method in study.methods]
    listed: dict[str, list[list[Any]]] = {}
    for pair in pairs:
        numbers = [percent(value, signed=True) for value in (pair.difference, pair.low, pair.high)]
        counts = [f"{value:,}" for value in (pair.gained, pair.lost, pair.changed, pair.n)]
        task = "Average" if pair.task == AVERAGE else visible(study.label(pair.task))
        row = [task, *numbers, *counts, p_value(pair.p_holm)]
        listed.setdefault(f"{ids.index(pair.method)},{ids.index(pair.against)}", []).append(row)
    return {
        "methods": [visible(method.get("label") or method["id"]) for method in study.methods],
        "ids": ids,
        "pairs": listed,
        "start": _start(study, listed),
        "examples": [
            {
                **record,
                "task": visible(study.label(record["task"])),
                "answers": {ids.index(m): a for m, a in record["answers"].items()},
            }
            for record in examples
        ],
    }


def _start(study: Study, listed: dict[str, list[list[Any]]]) -> list[int]:
    """Return the pair that is shown first: a NAN row with its host that changes an answer, where there is one."""

    def order(key: str) -> tuple[bool, bool, bool]:
        one, other = (study.methods[int(index)] for index in key.split(","))
        return one.get("host") != other["id"], one.get("group") != "nan", listed[key][0][6] == "0"

    return [int(index) for index in min(listed, key=order, default="0,0").split(",")]


def pairs_csv(study: Study, pairs: Sequence[Pair]) -> str:
    """Return the same comparisons with unrounded fractions as the text of a CSV file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    writer.writerows([study.suite["id"], *("" if value is None else value for value in pair)] for pair in pairs)
    return text.getvalue()
