"""Publish texts in the layout of GLUE on the hub: one repository, a configuration a task, parquet with features, a card.

Sentences are words of `WORDS`; what a label says can be learned: the share of words of the first half (`cola`, `stsb`), and
of a pair which text has more of them (`mnli`). As on the hub, the labels of `test` are hidden.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

WORDS = [f"w{i}" for i in range(40)]
HALF = len(WORDS) // 2
TASKS: dict[str, dict[str, Any]] = {  # configuration -> columns of texts, names of the labels
    "cola": {"texts": ["sentence"], "names": ["unacceptable", "acceptable"]},
    "mnli": {"texts": ["premise", "hypothesis"], "names": ["entailment", "neutral", "contradiction"]},
    "stsb": {"texts": ["sentence1", "sentence2"], "names": None},
}


def splits(config: str) -> list[str]:
    """Return the splits of a configuration."""
    kinds = ["_matched", "_mismatched"] if config == "mnli" else [""]
    return ["train", *(f"{split}{kind}" for split in ("validation", "test") for kind in kinds)]


def examples(config: str, count: int, seed: int) -> tuple[list[list[str]], list[Any]]:
    """Return so many texts of each column, and their labels."""
    draw, task = np.random.default_rng(seed), TASKS[config]
    columns: list[list[str]] = [[] for _ in task["texts"]]
    labels: list[Any] = []
    for _ in range(count):
        shares = [draw.uniform() for _ in columns]
        numbers = [
            [int(draw.integers(HALF) + HALF * (draw.uniform() > share)) for _ in range(draw.integers(4, 12))] for share in shares
        ]
        found = [float(np.mean([number < HALF for number in each])) for each in numbers]
        for column, each in zip(columns, numbers, strict=True):
            column.append(" ".join(WORDS[number] for number in each))
        if config == "cola":
            labels.append(int(found[0] > 0.5))
        elif config == "mnli":
            labels.append(1 if abs(found[0] - found[1]) < 0.25 else 2 * int(found[0] < found[1]))
        else:
            labels.append(np.float32(5 * np.mean(found)).item())
    return columns, labels


def publish(folder: Path, train: int = 400, held: int = 120, configs: tuple[str, ...] = tuple(TASKS)) -> Path:
    """Write the parquet files and the card of the configurations."""
    import datasets

    infos, files = [], []
    for number, config in enumerate(configs):
        task = TASKS[config]
        label = datasets.Value("float32") if task["names"] is None else datasets.ClassLabel(names=task["names"])
        features = datasets.Features({**{name: datasets.Value("string") for name in task["texts"]}, "label": label,
                                      "idx": datasets.Value("int32")})  # fmt: skip
        for at, split in enumerate(splits(config)):
            count = train if split == "train" else held
            columns, labels = examples(config, count, 100 * number + at)
            if split.startswith("test"):
                labels = [-1] * count
            content = dict(zip(task["texts"], columns, strict=True)) | {"label": labels, "idx": list(range(count))}
            (folder / config).mkdir(parents=True, exist_ok=True)
            table = datasets.Dataset.from_dict(content, features=features)
            table.to_parquet(str(folder / config / f"{split}-00000-of-00001.parquet"))
        infos.append({"config_name": config, "features": features._to_yaml_list()})
        files.append({"config_name": config, "data_files": [{"split": s, "path": f"{config}/{s}-*"} for s in splits(config)]})
    header = yaml.safe_dump({"dataset_info": infos, "configs": files}, sort_keys=False)
    (folder / "README.md").write_text(f"---\n{header}---\n# GLUE\n", encoding="utf-8")
    return folder
