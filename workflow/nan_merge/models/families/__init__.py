"""One module a model family, with the functions `prepare`, `load`, `batches` and `head`.

What families share lives in `models`.
"""
