"""One module per model family: `prepare`, `load`, `batches`, and `head` (of class prompts) or `extract_head` (of an expert).

Code shared by families lives in `models`.
"""
