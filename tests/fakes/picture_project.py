"""Table 3 of NAN in small: tiny LLaVAs and drawn benchmarks on a hub, and a project whose shipped suites fetch them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import drawn_pictures
import tiny
import tiny_vlm
import torch
from hub import Hub
from project import Project

SUITES = ("llava_13b", "llava_13b_next")
TASKS = ["ai2d", "mathvista"]
COUNT = 60  # pictures of each
METHODS = ["pretrained", "individual", "weight_averaging"]
REPOSITORIES = {
    "llava15_13b": "base", "llava16_13b": "shapes", "math_llava_13b": "bars", "clip_vit_l14_336": "clip",
    "data_ai2d": "ai2d", "data_mathvista": "mathvista",
}  # fmt: skip


def build(root: Path) -> None:
    """Train and publish everything below `root`."""
    torch.set_num_threads(1)
    tiny_vlm.publish_llavas(root / "models/tiny")
    tiny_vlm.publish_qwen(root / "models/tiny")
    drawn_pictures.publish(root / "datasets/tiny", COUNT)


def serve(hub: Hub, root: Path) -> None:
    """Publish all repositories below `root` on a hub."""
    for folder in sorted(root.glob("*/tiny/*")):
        hub.put(f"tiny/{folder.name}", folder, folder.parents[1].name)


def project(folder: Path) -> Project:
    """Return a project in which the shipped entries name the tiny repositories, and the suites have two tasks each."""
    made = Project(tiny.copy_code(folder))

    def smaller(assets: dict[str, Any]) -> None:
        for asset, name in REPOSITORIES.items():
            assets[asset] |= {"repo": f"tiny/{name}", "bytes": 1_000_000}
            assets[asset] |= {} if asset.startswith("data_") else {"members": ["*.json", "model.safetensors"]}
        kinds = {kind: f"processor_{kind}" for kind in ("llava", "llava_next")}
        assets["processor_{}"] |= {"repo": "tiny/{}", "each": kinds, "members": ["*.json", "chat_template*"]}

    made.edit("config/assets.yaml", smaller)
    made.edit("config/tasks.yaml", lambda tasks: [tasks[name]["harness"].update(examples=COUNT) for name in TASKS])
    made.edit("config/suites/llava_13b.yaml", lambda suite: suite.update(tasks=TASKS, groups={"all": TASKS}))
    run = {
        "seeds": [0], "suites": [*SUITES], "methods": METHODS, "keep_merged": False, "tables": ["main"], "figures": [],
        "published": ["nan_table3"], "scoring": {"batch_size": 16},
        "models": {"qwen": {
            "base": "tiny/qwen_base", "experts": {"shapes": "tiny/qwen_shapes", "bars": "tiny/qwen_bars"}, "tasks": TASKS,
            "harness": {"chat_template": True},
        }},
    }  # fmt: skip
    tiny.write_yaml(made / "config/config.yaml", run)
    return made
