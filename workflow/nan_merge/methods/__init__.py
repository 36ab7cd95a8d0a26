"""The merge algebra: one small function a paper equation, grouped by stage, and the recipe that binds a method to them.

Operators take arrays and a context, never files; `engine` streams tensors through them.

Imports: core.
"""
