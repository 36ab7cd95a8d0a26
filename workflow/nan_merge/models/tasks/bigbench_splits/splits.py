"""Disjoint splits of a task of BIG-bench: in its task.json all examples stand in one list."""

import random
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict

from nan_merge.core.text import parse_json

SIZES = {"test": 150, "validation": 100}  # at most; train has the others
SEED = 0


def read(folders: list[str], task: str, **_: Any) -> DatasetDict:
    """Return the splits `train`, `validation` and `test` of the examples of a task, in one fixed random order.

    `folders` has the folder of the data, in which `task`/task.json lies. Each input occurs once. Columns are `input`, `answer`
    (the best choice, or the first right text), and of a task with choices `choices` and `gold`, the number of the best.
    """
    file = Path(folders[0]) / task / "task.json"
    examples = parse_json(file.read_bytes(), file)["examples"]
    rows = [_row(example) for example in {example["input"].strip(): example for example in examples}.values()]
    random.Random(SEED).shuffle(rows)
    splits = {}
    for name, size in SIZES.items():
        splits[name], rows = Dataset.from_list(rows[:size]), rows[size:]
    return DatasetDict({**splits, "train": Dataset.from_list(rows)})


def _row(example: dict[str, Any]) -> dict[str, Any]:
    asked = {"input": example["input"].strip()}
    if "target_scores" in example:
        choices = list(example["target_scores"])
        best = max(choices, key=example["target_scores"].__getitem__)
        return {**asked, "choices": choices, "gold": choices.index(best), "answer": best}
    target = example["target"]
    return {**asked, "answer": target if isinstance(target, str) else target[0]}
