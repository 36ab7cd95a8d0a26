"""Flan-T5 in small: whole models and LoRA adapters, and a project whose shipped suite fetches and scores the adapters.

models/tiny/t5                  the base with its tokenizer
models/tiny/t5_<task>           experts, whole models
models/tiny/t5_<task>_lora      experts, adapters of rank 4
datasets/tiny/glue              the texts, a configuration each task
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import glue_hub
import pyarrow.parquet as pq
import tiny
import tiny_t5
from project import Project

SUITES = {"flan_t5_base_8": "", "flan_t5_base_lora_8": "_lora"}
TASKS = {"cola_text": "cola", "stsb_text": "stsb"}  # ours -> of the source
WORDS = [*glue_hub.WORDS, "acceptable", "unacceptable", '"', "'", *(f"{tenths / 10:.1f}" for tenths in range(51))]
METHODS = ["individual", "weight_averaging", "task_arithmetic_tuned"]
TRAIN, HELD = 300, 40


def asked(task: str, row: dict[str, Any]) -> str:
    """Return the prompt of FusionBench for a row of its data."""
    if task == "cola_text":
        return (
            f'Indicate if the following sentence is grammatically correct or not: "{row["sentence"]}".'
            " Answere 'acceptable' or 'unacceptable'."
        )
    return (
        f"Consider the sentences '{row['sentence1']}' and '{row['sentence2']}'. On a scale from 1 (completely different) to 5"
        " (completely similar), rate the similarity."
    )


def wanted(task: str, row: dict[str, Any]) -> str:
    """Return the text of the label of a row."""
    return ["unacceptable", "acceptable"][row["label"]] if task == "cola_text" else f"{row['label']:.1f}"


def examples(root: Path, task: str, split: str) -> tuple[list[str], list[str]]:
    """Return prompts and right texts of a published split."""
    rows = pq.read_table(next((root / f"datasets/tiny/glue/{TASKS[task]}").glob(f"{split}-*"))).to_pylist()
    return [asked(task, row) for row in rows], [wanted(task, row) for row in rows]


def build(root: Path) -> dict[str, dict[str, Any]]:
    """Train and publish everything below `root`; return the models by suite and by task, or `base`."""
    glue_hub.publish(root / "datasets/tiny/glue", TRAIN, HELD, tuple(TASKS.values()))
    base = tiny_t5.base(len(WORDS))
    tiny_t5.publish(root / "models/tiny/t5", base, WORDS)
    found: dict[str, dict[str, Any]] = {suite: {"base": base} for suite in SUITES}
    for task in TASKS:
        texts = examples(root, task, "train")
        whole = tiny_t5.train(copy.deepcopy(base), WORDS, *texts, steps=60, rate=1e-2)
        tiny_t5.publish(root / f"models/tiny/t5_{task}", whole)
        adapter = tiny_t5.train(tiny_t5.adapted(base), WORDS, *texts, steps=20, rate=3e-2)
        adapter.save_pretrained(root / f"models/tiny/t5_{task}_lora")
        found["flan_t5_base_8"][task], found["flan_t5_base_lora_8"][task] = whole, adapter.merge_and_unload()
    return found


def project(folder: Path) -> Project:
    """Return a project in which the shipped entries name the tiny repositories, and the suites have two tasks each."""
    made = Project(tiny.copy_code(folder))
    each = {task: task for task in TASKS}

    def smaller(assets: dict[str, Any]) -> None:
        assets["flan_t5_base"] |= {
            "repo": "tiny/t5",
            "members": ["*config.json", "model.safetensors", "tokenizer.json"],
            "bytes": 10**6,
        }
        for kind in SUITES.values():
            assets[f"flan_t5_base{kind}_{{}}"] |= {"repo": f"tiny/t5_{{}}{kind}", "each": each, "bytes": 10**6}
        assets["data_glue_{}"]["repo"] = "tiny/glue"

    made.edit("config/assets.yaml", smaller)
    made.edit("config/tasks.yaml", lambda tasks: [tasks[task]["harness"].update(examples=HELD, generated=9) for task in TASKS])
    made.edit("config/suites/flan_t5_base_8.yaml", lambda suite: suite.update(tasks=[*TASKS], groups={"all": [*TASKS]}))
    run = {"seeds": [0], "suites": ["flan_t5_base_lora_8"], "methods": METHODS, "keep_merged": True, "tables": ["main"],
           "scoring": {"batch_size": 16}, "figures": [], "published": ["fusionbench_flan_t5"]}  # fmt: skip
    tiny.write_yaml(made / "config/config.yaml", run)
    return made
