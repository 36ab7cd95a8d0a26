"""Choices on validation: the next point of a search, the best candidate, and how optimistic its score is.

Spaces and points are in `methods.search_space`; merging and scoring a candidate are jobs like those of any method.

Imports: core, data, methods.
"""
