"""Merge models of your own without a suite: find, unify, measure, merge and document them; mergekit configs in and out;
state dicts in memory.

The workflow's rules do the same stage by stage; they share `documented_merge`.

Imports: core, assets, catalogue, checkpoints, layouts, methods, engine.
"""
