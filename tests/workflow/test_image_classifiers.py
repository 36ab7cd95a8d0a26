"""ConvNeXts with heads of their own in small: from a hub on the loopback to the tables, by the suite and rules of users.

What is asserted of answers was computed beside the workflow, by transformers' processor and classifier.
"""

from __future__ import annotations

import copy
import io

import hub_data
import numpy as np
import pytest
import tiny
import tiny_image_classifiers as images
import torch
from from_hub import locked_and_run
from PIL import Image
from project import Project

pytestmark = [pytest.mark.demo, pytest.mark.slow]  # tests of the families run in one process: tests/unit/models
TASKS = ("eurosat", "dtd")
TEST = range(100, 123)  # the test pictures of `hub_data.build`


def build(folder):
    """Return the models, published below `folder`, and the project whose shipped entries fetch them."""
    base = images.classifier("convnext", 5)
    models = {"base": base} | {task: images.classifier("convnext", 3, seed, base) for seed, task in enumerate(TASKS, 1)}
    images.publish(folder / "hub/models/tiny/convnext", base, processor=True)
    for task in TASKS:
        images.publish(folder / f"hub/models/tiny/convnext_{task}", models[task])
        hub_data.build(folder / f"hub/datasets/tiny/{task}")
    project = Project(tiny.copy_code(folder / "project"))

    def assets(records):
        each = {task: task for task in TASKS}
        records["convnext_base"]["repo"] = "tiny/convnext"
        records["convnext_base_{}"] |= {"repo": "tiny/convnext_{}", "each": each}
        for task in TASKS:
            records["data_{}"]["each"][task]["name"] = f"tiny/{task}"

    def tasks(records):
        for task in TASKS:
            records[task] |= {"splits": hub_data.TASK["splits"], "arguments": hub_data.TASK["arguments"]}

    project.edit("config/assets.yaml", assets)
    project.edit("config/tasks.yaml", tasks)
    for task in TASKS:
        project.edit(f"config/class_names/{task}.yaml", lambda record: record.update(classes=hub_data.TASK["classes"]))
    form = {"side": images.SIDE, "resize": images.RESIZE}
    project.edit(
        "config/suites/convnext_base_8.yaml", lambda suite: suite.update(input=form, tasks=[*TASKS], groups={"all": [*TASKS]})
    )
    run = {"seeds": [0], "suites": ["convnext_base_8"], "methods": ["individual", "weight_averaging"], "tables": ["main"]}
    tiny.write_yaml(project / "config/config.yaml", {**run, "figures": []})
    return models, project


def expected(model):
    """Return the classes of the test pictures by a classifier and the processor of the base, one after another."""
    from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil

    processor = ConvNextImageProcessorPil(
        size={"shortest_edge": images.SIDE}, crop_pct=images.SIDE / images.RESIZE, resample=3, image_mean=images.MEAN,
        image_std=images.STD,
    )  # fmt: skip
    found = []
    for row in hub_data.examples(TEST)["image"]:
        pixels = processor(Image.open(io.BytesIO(row["bytes"])).convert("RGB"), return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            found.append(int(model(pixel_values=pixels).logits.argmax()))
    return found


def test_classifiers_go_from_the_hub_to_the_tables(tmp_path):
    models, project = build(tmp_path)
    locked_and_run(project, tmp_path / "hub")
    one, two = (models[task].convnext.state_dict() for task in TASKS)
    average = {name: (tensor + two[name]) / 2 for name, tensor in one.items()}
    for task in TASKS:
        merged = copy.deepcopy(models[task])
        merged.convnext.load_state_dict(average)
        for method, model in {"individual": models[task], "weight_averaging": merged}.items():
            with np.load(project / f"results/scores/convnext_base_8/{method}/seed0/all.npz") as found:
                given, labels = found[f"{task}.prediction"].tolist(), found[f"{task}.label"].tolist()
            assert labels == [number % 3 for number in TEST]
            assert sum(mine == theirs for mine, theirs in zip(given, expected(model), strict=True)) >= len(TEST) - 1, (
                task,
                method,
            )
    assert "EuroSAT" in (project / "results/tables/main_convnext_base_8.md").read_text()
