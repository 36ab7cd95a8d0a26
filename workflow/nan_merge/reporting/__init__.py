"""Tables, figures, paired tests, claims and the report, all computed from `scores.tsv`, predictions and small records.

No model is loaded here and no score is computed.

Imports: core, methods.
"""
