"""Tables, figures, paired tests, checks, claims of papers and the report, from `scores.tsv`, predictions and measurements.

No model is loaded here and no score is computed.

Imports: core, data, methods.
"""
