"""Test examples, texts or images, with the predictions of every row, as many as a page can hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nan_merge.core.escape import visible
from nan_merge.core.files import read_json
from nan_merge.reporting.study import Study

ROOM = 1_200_000  # characters of all examples of a page
KINDS = ("texts", "images")


def examples_of(study: Study, answers: Mapping[tuple, Any], given: Mapping[str, Any], room: int) -> list[dict[str, Any]]:
    """Return, for each task with examples, those on which two rows give different answers, and these answers.

    `given` is a record of `read_examples`, {} without one. A task is a record with `shown` and `differing`, the numbers of such
    examples here and in all, their `index` in the test split, `texts` or `images` (data URLs), the indices `right` of the
    right classes, and `answers`, for each row of the study that has some, the indices of its classes. Of several fine-tuning
    seeds and of several draws the first is shown. `room` is the number of characters for all tasks.
    """
    kind = next((kind for kind in KINDS if kind in given), "")
    tasks = [task for task in study.tasks if kind and given[kind].get(task["id"])]
    found = (_of_task(study, answers, task, kind, given[kind][task["id"]], room // len(tasks)) for task in tasks)
    return [record for record in found if record]


def _of_task(
    study: Study, answers: Mapping[tuple, Any], task: Mapping[str, Any], kind: str, shown: Sequence[str | None], room: int
) -> dict[str, Any]:
    keys = {m["id"]: (study.suite["id"], study.members(m["id"])[0], task["id"], study.seeds[0]) for m in study.methods}
    given = {name: answers[key] for name, key in keys.items() if key in answers}
    if not given:
        return {}
    right = next(iter(given.values())).label
    if len(right) != len(shown) or any(not np.array_equal(each.label, right) for each in given.values()):
        return {}  # predictions for other examples than these
    named = study.tasks if study.suite.get("joint") else [task]  # whose classes are told apart
    predictions = np.array([each.prediction for each in given.values()])
    differing = np.flatnonzero((predictions != predictions[0]).any(axis=0))
    there = [index for index in differing.tolist() if shown[index] is not None]
    sizes = np.cumsum([len(shown[index] or "") + 4 * len(given) for index in there])
    kept = there[: int(np.searchsorted(sizes, room, side="right"))]
    return {
        "task": task["id"],
        "classes": [str(name) for each in named for name in study.datasets.get(each["id"], {}).get("classes", [])],
        "shown": len(kept),
        "differing": len(differing),
        "index": kept,
        kind: [visible(shown[index] or "") for index in kept],
        "right": right[kept].tolist(),
        "answers": {name: each.prediction[kept].tolist() for name, each in given.items()},
    }


def read_examples(files: Sequence[Path | str]) -> dict[str, dict[str, Any]]:
    """Read the test examples by suite: by task `texts`, or `images` as data URLs and None, in their order."""
    return {record["suite"]: record for record in map(read_json, files)}
