#!/usr/bin/env bash
# Not on conda-forge. Here and not under `pip:` of clip.yaml, since a pin file names conda packages only.
set -euo pipefail
pip install --no-deps resvg_py==0.5.0
