"""Scores of a finished run in the formats of others: the hub's results and model cards, Every Eval Ever, a leaderboard's CSV.

Nothing is computed here that `reporting` does not compute, and nothing is uploaded.

Imports: core, reporting, standalone.
"""
