"""Pinned downloads: hub repositories, PyPI, Debian and npm packages, addresses and local files, verified against a lock.

How a downloaded file is read lives in `checkpoints` and `data`.

Imports: core.
"""
