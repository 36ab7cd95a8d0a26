"""Cost of a merge against other programs and against the machine; run as `python -m benchmarks.<name>`."""

import scripts  # noqa: F401  puts the library on the path
