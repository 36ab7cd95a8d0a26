"""Statistics that need data and a forward pass: Fisher information, Gram matrices, coefficients learned by AdaMerging.

How a merge uses them is an operator of `methods`.

Imports: core, checkpoints, layouts, methods, engine, models.
"""
