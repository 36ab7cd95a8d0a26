"""What `scoring:`, `compute:` and `blas_threads:` of the config take, and their defaults, for library, commands and plan.

Nothing heavy is imported.
"""

COMPUTE = ("float64", "float32")  # of merges that take whole tensors; the first is the default
BLAS_THREADS = 64  # at most, as many as NumPy's matrix library has
PRECISIONS = ("float32", "bfloat16", "float16")
BATCH = 64  # examples, of encoders and classifiers
BENCHMARK_BATCH = 8  # of language models on benchmarks, whose batches take gigabytes
