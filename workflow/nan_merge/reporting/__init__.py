"""Tables, figures, paired tests, claims and the report, computed from `scores.tsv`, predictions and measurements.

No model is loaded here and no score is computed.

Imports: core, methods.
"""
