"""Bring models to one layout: names, adapters, tied embeddings, vocabularies, CLIP formats, the canonical checkpoint.

Bytes on disk are a matter of `checkpoints`; values are merged in `engine`.

Imports: core, checkpoints.
"""
