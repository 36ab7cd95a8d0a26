"""Say before a run what it would fetch, write, do and take: jobs from Snakemake's dry run, costs from config/costs.yaml."""
