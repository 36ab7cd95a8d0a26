"""Downloads: hub repositories, PyPI, Debian and npm packages, addresses and local files, resumed and verified.

Readers of the files are in `checkpoints` and `data`.

Imports: core.
"""
