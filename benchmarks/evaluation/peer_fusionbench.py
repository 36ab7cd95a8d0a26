"""Evaluate a CLIP image encoder with FusionBench; run by the Python of its environment.

    python peer_fusionbench.py MODEL BASE PARQUET TASK OUTPUT

The settings are those of its config/taskpool/CLIPVisionModelTaskPool/_template.yaml. Writes OUTPUT/report.json and
OUTPUT/predictions.json; the last line that it prints are the seconds of its parts.
"""

import itertools
import json
import sys
import time
from pathlib import Path

clock = [time.perf_counter()]

from datasets import load_dataset  # noqa: E402
from fusion_bench.models.hf_clip import HFCLIPClassifier  # noqa: E402
from fusion_bench.taskpool import CLIPVisionModelTaskPool  # noqa: E402
from transformers import CLIPModel, CLIPProcessor, CLIPVisionModel  # noqa: E402


class Watched(HFCLIPClassifier):
    """The classifier as it is, which notes when its head was there and what it predicted."""

    predictions: list[int] = []  # noqa: RUF012

    def set_classification_task(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        """Build the head."""
        clock.append(time.perf_counter())
        super().set_classification_task(*args, **kwargs)
        clock.append(time.perf_counter())

    def forward(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        """Classify."""
        found = super().forward(*args, **kwargs)
        self.predictions.extend(found["logits"].argmax(1).tolist())
        return found


sys.modules[CLIPVisionModelTaskPool.__module__].HFCLIPClassifier = Watched
model, base, shard, task, output = sys.argv[1:]
clock.append(time.perf_counter())
pool = CLIPVisionModelTaskPool(
    test_datasets={task: load_dataset("parquet", data_files={"test": shard}, split="test")},
    processor=CLIPProcessor.from_pretrained(base),
    clip_model=CLIPModel.from_pretrained(base),
    dataloader_kwargs={"batch_size": 128, "num_workers": 8, "pin_memory": True, "drop_last": False, "shuffle": False},
)
report = pool.evaluate(CLIPVisionModel.from_pretrained(model))
clock.append(time.perf_counter())
Path(output).mkdir()
Path(output, "report.json").write_text(json.dumps(report))
Path(output, "predictions.json").write_text(json.dumps(Watched.predictions))
seconds = [late - early for early, late in itertools.pairwise(clock)]
print("\n" + json.dumps(dict(zip(("imports", "loading", "head", "images"), seconds, strict=True))), flush=True)
