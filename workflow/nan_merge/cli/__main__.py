"""`python -m nan_merge.cli`: the command `nan-merge` where it is not installed."""

from nan_merge.cli.main import run

run()
