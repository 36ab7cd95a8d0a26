"""Data sets: read texts and images of an asset, draw splits, write memory-mapped arrays.

No model is used here; scoring lives in `models`.

Imports: core.
"""
