"""Merge small models with mergekit; run by the Python of its environment: JOBS.json, a list of jobs.

A job has `config` (the content of a mergekit file) and `output`. With `draw`, what mergekit draws at random are the draws of
`draws.py`, so that two programs can be held to them. `options` are those of mergekit's command.
"""

import json
import sys
from pathlib import Path

import torch
from draws import uniform
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions

OPTIONS = {"copy_tokenizer": False, "write_model_card": False, "quiet": True}


def main(jobs):
    """Run every job as `mergekit-yaml` does."""
    drawn = torch.bernoulli
    for job in jobs:
        torch.bernoulli = (lambda p: (p >= 1 - uniform(p.shape)).to(p.dtype)) if job["draw"] else drawn
        options = MergeOptions(**{**OPTIONS, **job.get("options", {})})
        run_merge(MergeConfiguration.model_validate(job["config"]), job["output"], options=options)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
