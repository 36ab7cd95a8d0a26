"""Weight files: read safetensors and PyTorch files without running code in them, write sharded safetensors.

Which names and shapes the tensors should have is a matter of `layouts`.

Imports: core.
"""
