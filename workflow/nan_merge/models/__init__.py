"""Encoders: load, prepare, run, train and score the model families of `models/families`.

Only here and in `calibration` are torch, transformers, open_clip and lm_eval imported; merging needs none of them.

Imports: core, checkpoints, layouts, data.
"""
