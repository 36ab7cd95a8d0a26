"""The language experiment in small: tiny classifiers and texts on a hub, and a project whose shipped suites fetch them.

models/tiny/gpt2, gpt2_<task>      a base and its experts, a repository each (collection D)
models/tiny/roberta, roberta_glue  a base, and all its experts in one repository, in pytorch_model.bin (collection E)
datasets/tiny/glue                 the texts, a configuration each task
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import glue_hub
import pyarrow.parquet as pq
import tiny
import tiny_classifiers
from glue_hub import WORDS
from hub import Hub
from project import Project

SUITES = {"gpt2_7": ("gpt2", ["cola", "mnli"]), "roberta_base_8": ("roberta", ["cola", "stsb"])}  # kind of models, tasks
METHODS = ["pretrained", "individual", "weight_averaging", "fisher_normalised", "regmean", "task_arithmetic_tuned",
           "adamerging_layer"]  # fmt: skip
GRID = [0.2, 0.6]
TRAIN, HELD = 600, 150


def build(root: Path) -> dict[str, dict[str, Any]]:
    """Train and publish everything below `root`; return the models by kind of model and by task, or `base`."""
    glue_hub.publish(root / "datasets/tiny/glue", TRAIN, HELD)
    found: dict[str, dict[str, Any]] = {}
    for kind, tasks in SUITES.values():
        base = tiny_classifiers.base(kind, len(WORDS))
        tiny_classifiers.publish(root / f"models/tiny/{kind}", kind, base, WORDS)
        found[kind] = {"base": base}
        for number, task in enumerate(tasks):
            names = glue_hub.TASKS[task]["names"]
            model = tiny_classifiers.classifier(kind, base, len(names or [""]), seed=number + 1)
            ids, mask, labels = examples(root, kind, task, "train")
            found[kind][task] = tiny_classifiers.train(model, ids, mask, labels, steps=120, rate=3e-3, seed=number)
            place = f"gpt2_{task}" if kind == "gpt2" else f"roberta_glue/{task}/roberta-base_lr1e-05"
            tiny_classifiers.publish(root / f"models/tiny/{place}", kind, model)
    return found


def examples(root: Path, kind: str, task: str, split: str) -> tuple[Any, Any, list[Any]]:
    """Return token ids, mask and labels of a published split, padded as the classifiers pad."""
    table = pq.read_table(next((root / f"datasets/tiny/glue/{task}").glob(f"{split}-*"))).to_pydict()
    padding = len(WORDS) if kind == "gpt2" else 1
    return *tiny_classifiers.tokens(kind, WORDS, [table[name] for name in glue_hub.TASKS[task]["texts"]], padding), table["label"]


def held(task: str) -> str:
    """Return the split of the source that is the test split of a task."""
    return "validation_matched" if task == "mnli" else "validation"


def serve(hub: Hub, root: Path) -> None:
    """Publish all repositories below `root` on a hub."""
    for folder in sorted(root.glob("*/tiny/*")):
        hub.put(f"tiny/{folder.name}", folder, folder.parents[1].name)


def project(folder: Path) -> Project:
    """Return a project in which the shipped entries name the tiny repositories, and the suites have two tasks each."""
    made = Project(tiny.copy_code(folder))
    repositories = {"gpt2": "tiny/gpt2", "gpt2_{}": "tiny/gpt2_{}", "roberta_base": "tiny/roberta",
                    "roberta_base_{}": "tiny/roberta_glue", "data_glue_{}": "tiny/glue"}  # fmt: skip
    made.edit("config/assets.yaml", lambda assets: [assets[name].update(repo=repo) for name, repo in repositories.items()])
    used = {task for _, tasks in SUITES.values() for task in tasks}

    def shorten(tasks: dict[str, Any]) -> None:
        for task in used:
            tasks[task]["arguments"]["counts"] = {held(task): HELD, "train": TRAIN}
            tasks[task]["splits"] |= {"train": 200, "validation": 100}

    made.edit("config/tasks.yaml", shorten)
    for suite, (_, tasks) in SUITES.items():
        fewer = {"tasks": tasks, "groups": {"all": tasks}, "learn": {"steps": 2}}
        chosen = tiny.read_yaml(made / f"config/suites/{suite}.yaml").get("metrics")
        fewer |= {"metrics": {task: chosen[task] for task in tasks}} if chosen else {}
        made.edit(f"config/suites/{suite}.yaml", lambda record, fewer=fewer: record.update(fewer))
    made.edit("config/methods.yaml", lambda methods: methods["task_arithmetic_tuned"]["tune"].update(grid=GRID))
    run = {"seeds": [0], "suites": list(SUITES), "methods": METHODS, "tables": ["main"], "figures": [], "published": ["ace_gpt2"]}
    tiny.write_yaml(made / "config/config.yaml", run)
    return made


def assets() -> list[str]:
    """Return the ids of the assets of the run."""
    tasks = {suite: tasks for suite, (_, tasks) in SUITES.items()}
    models = [f"gpt2_{task}" for task in tasks["gpt2_7"]] + [f"roberta_base_{task}" for task in tasks["roberta_base_8"]]
    return ["gpt2", "roberta_base", *models, *(f"data_glue_{task}" for task in ("cola", "mnli", "stsb"))]
