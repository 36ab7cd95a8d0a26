"""Benchmarks of lm_eval on causal language models: tasks, what runs models, one task's run, answers and their cache.

Only here are lm_eval and datasets imported. Scores and files are made by `models.benchmark_scores`.
"""
