"""Statistics that need data and a forward pass: Fisher information, Gram matrices, coefficients learned by AdaMerging.

The operators that use them live in `methods`.

Imports: core, checkpoints, layouts, methods, engine, models.
"""
