"""Bring models to one layout: names, adapters, tied embeddings, vocabularies, CLIP formats, the canonical checkpoint.

Files are read and written in `checkpoints`; values are merged in `engine`.

Imports: core, checkpoints.
"""
