"""Weight files: read safetensors and PyTorch files without running code in them, write sharded safetensors.

Names and shapes of tensors are checked in `layouts`.

Imports: core.
"""
