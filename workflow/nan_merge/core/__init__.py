"""Ground floor: the user error, atomic writes, JSON, YAML and TSV files, escapes, digests, progress, threads, compiled kernels.

Nothing about models, methods or data sets lives here; only `cuda` imports torch, on request.

Imports: nothing of this library.
"""
