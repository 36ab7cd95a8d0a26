"""Merge CLIP image encoders with FusionBench; run by the Python of its environment: METHOD OUTPUT BASE EXPERT..."""

import sys

from fusion_bench.modelpool.clip_vision.modelpool import CLIPVisionModelPool

method, output, base, *experts = sys.argv[1:]
pool = CLIPVisionModelPool({"_pretrained_": base, **{f"expert_{t}": expert for t, expert in enumerate(experts)}})
if method == "ties":
    from fusion_bench.method.ties_merging.ties_merging import TiesMergingAlgorithm

    algorithm = TiesMergingAlgorithm(scaling_factor=0.3, threshold=20, remove_keys=[], merge_func="sum")
else:
    from fusion_bench.method.task_arithmetic.task_arithmetic import TaskArithmeticAlgorithm

    algorithm = TaskArithmeticAlgorithm(scaling_factor=0.3)
pool.save_model(algorithm.run(pool), output)
