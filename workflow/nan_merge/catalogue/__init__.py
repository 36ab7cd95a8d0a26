"""The catalogue: config/methods.yaml and config/variants.yaml, read, checked and expanded into method specs with labels.

Hosts are entries, variants go on any of them: `ties+nan_delta`. What an operator computes lives in `methods`.

Imports: core, methods.
"""
