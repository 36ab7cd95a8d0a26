"""Runs on a SLURM cluster: checks before a run, partitions, resources of jobs, the state of a run, one executor patch.

The rules themselves live in `workflow/rules`.
"""
