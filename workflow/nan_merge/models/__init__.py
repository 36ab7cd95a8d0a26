"""Encoders: load, prepare, run, train and score the model families of `models/families`.

Only here and in `calibration` are torch, transformers and open_clip imported; merging needs none of them.

Imports: core, checkpoints, layouts, data.
"""
