"""What an evaluation costs: the batch loop against the bare forward pass, and whole processes against FusionBench."""
