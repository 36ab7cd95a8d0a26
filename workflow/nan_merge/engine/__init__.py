"""Stream tensors through a method: read blocks, measure norms and thresholds, merge, write; on CPU or a torch device.

What a method computes lives in `methods`, what a file looks like in `checkpoints` and `layouts`.

Imports: core, checkpoints, layouts, methods.
"""
