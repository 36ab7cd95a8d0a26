"""Cost of a run before it starts: jobs from Snakemake's dry run, sizes, disk space and time from config/costs.yaml.

Nothing is fetched or run here.
"""
