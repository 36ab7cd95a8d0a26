"""Merge models with FusionBench; run by the Python of its environment: METHOD OUTPUT BASE EXPERT..."""

import importlib
import json
import sys
from pathlib import Path

METHODS = {
    "task_arithmetic": ("task_arithmetic.TaskArithmeticAlgorithm", {"scaling_factor": 0.3}),
    "ties": (
        "ties_merging.ties_merging.TiesMergingAlgorithm",
        {"scaling_factor": 0.3, "threshold": 20, "remove_keys": [], "merge_func": "sum"},
    ),
    "tsv_m": ("task_singular_vector.TaskSingularVectorMerging", {}),
}
POOLS = {
    "clip_vision_model": ("fusion_bench.modelpool.clip_vision.modelpool", "CLIPVisionModelPool", {}),
    "llama": ("fusion_bench.modelpool.causal_lm", "CausalLMPool", {"tokenizer": None}),
}

method, output, base, *experts = sys.argv[1:]
module, name, settings = POOLS[json.loads((Path(base) / "config.json").read_text())["model_type"]]
models = {"_pretrained_": base, **{f"expert_{t}": expert for t, expert in enumerate(experts)}}
pool = getattr(importlib.import_module(module), name)(models, **settings)
path, values = METHODS[method]
module, _, name = path.rpartition(".")
algorithm = getattr(importlib.import_module(f"fusion_bench.method.{module}"), name)(**values)
pool.save_model(algorithm.run(pool), output)
