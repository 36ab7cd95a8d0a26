"""Print the assets, disk space, jobs and time of a run, and refuse one that does not fit the disk. Nothing is run."""

import argparse
import json
import os
from pathlib import Path

from experiment.experiment import Experiment
from experiment.parts import ConfigParts
from nan_merge.core.command_line import command_line
from nan_merge.core.errors import UserError
from planning.jobs import planned_jobs
from planning.overview import check_fits, overview
from planning.sizes import Sizes
from planning.text import text

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Parse the command line and print the plan; exit code 1 if the run does not fit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configfile", type=Path, nargs="+", default=[], help="overlays of config.yaml, as of snakemake")
    parser.add_argument("--config", type=json.loads, default={}, help="keys of the config as JSON")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="jobs at once (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    if args.jobs < 1:
        raise UserError(f"--jobs {args.jobs}: expected how many jobs run at once, 1 or more")
    parts = ConfigParts.read(ROOT, [file.absolute() for file in args.configfile], args.config)
    sizes = Sizes(Experiment(parts.merged(), ROOT, parts), ROOT)
    plan = overview(sizes, planned_jobs(ROOT, args.configfile, args.config), args.jobs)
    print(json.dumps(plan, indent=1, ensure_ascii=False) if args.json else text(plan), flush=True)
    check_fits(plan)


if __name__ == "__main__":
    command_line(main)
