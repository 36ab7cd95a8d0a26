"""Data sets: read texts and images of an asset, draw splits, write memory-mapped arrays.

Models never enter here; scoring lives in `models`.

Imports: core.
"""
