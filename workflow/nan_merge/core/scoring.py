"""What `scoring:` of the config takes and its defaults, for the library, its commands and the plan; nothing heavy is imported."""

PRECISIONS = ("float32", "bfloat16", "float16")
BATCH = 64  # examples, of encoders and classifiers
BENCHMARK_BATCH = 8  # of language models on benchmarks, whose batches take gigabytes
