"""One module per model family, with the functions `prepare`, `load`, `batches` and `head`.

Code shared by families lives in `models`.
"""
