"""Stream tensors through a method: read blocks, measure norms and thresholds, merge, write; on CPU or a torch device.

Operators live in `methods`, file formats in `checkpoints` and `layouts`.

Imports: core, checkpoints, layouts, methods.
"""
