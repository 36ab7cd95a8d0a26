"""What `scoring:` and `compute:` of the config take and their defaults, for the library, its commands and the plan.

Nothing heavy is imported.
"""

COMPUTE = ("float64", "float32")  # of merges that take whole tensors; the first is the default
PRECISIONS = ("float32", "bfloat16", "float16")
BATCH = 64  # examples, of encoders and classifiers
BENCHMARK_BATCH = 8  # of language models on benchmarks, whose batches take gigabytes
