"""Wost of an evaluation: the batch loop against the bare forward pass, and whole processes against FusionBench."""
