"""What an archive of a run holds, and how a run is made again from one; both ask the workflow itself, through Snakemake.

The zip file, its checks and comparisons are in `nan_merge.archive`.
"""
