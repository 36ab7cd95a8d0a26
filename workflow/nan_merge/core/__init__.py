"""Ground floor: the user error, atomic writes, JSON and TSV files, digests, progress, threads, compiled kernels.

Nothing about models, methods or data sets lives here, and no module imports torch.

Imports: nothing of this library.
"""
