#!/usr/bin/env bash
# vLLM with the versions that its wheel asks for, then requirements-language.txt. Not tried: it needs a GPU.
set -euo pipefail
pip install \
  vllm==0.33.0 \
  torch==2.14.0 \
  torchvision==0.29.0 \
  transformers==5.20.0 \
  numba==0.65.0
pip install --no-deps \
  accelerate==1.15.0 \
  gguf==0.19.0 \
  lm_eval==0.4.13 \
  sentence-transformers==6.2.0 \
  absl-py==2.5.1 \
  aiohappyeyeballs==2.7.1 \
  aiohttp==3.14.5 \
  aiosignal==1.4.0 \
  chardet==6.0.0.post1 \
  cloudpickle==3.1.3 \
  colorama==0.4.6 \
  DataProperty==0.37.0 \
  defusedxml==0.7.1 \
  dominate==2.9.1 \
  evaluate==0.4.6 \
  frozenlist==1.8.0 \
  joblib==1.6.0 \
  Logbook==1.10.1 \
  lxml==6.1.3 \
  mbstrdecoder==1.1.5 \
  more-itertools==11.2.1 \
  msgfy==0.2.1 \
  multidict==7.2.1 \
  narwhals==2.29.0 \
  nltk==3.10.4 \
  pathvalidate==3.3.1 \
  portalocker==4.4.2 \
  propcache==0.5.4 \
  pytablewriter==0.38.0 \
  pytz==2026.6 \
  rouge_score==0.1.2 \
  sacrebleu==2.6.0 \
  scikit-learn==1.9.1 \
  six==1.17.0 \
  sqlitedict==2.1.0 \
  tabledata==0.0.26 \
  typepy==0.3.1 \
  word2number==1.1 \
  yarl==1.25.1
