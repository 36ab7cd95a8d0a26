#!/usr/bin/env bash
# OpenCompass, with the newest versions of packages with which it imports: a plain install is broken, since it wants NumPy 1.
set -euo pipefail
pip install \
  opencompass==0.5.4 \
  torch==2.13.0 \
  transformers==4.49.0 \
  datasets==3.6.0 \
  numpy==1.26.4 \
  pyarrow==20.0.0 \
  pandas==2.3.3 \
  huggingface_hub==0.36.0
