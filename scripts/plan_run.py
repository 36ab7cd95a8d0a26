"""Print the assets, disk space, jobs and time of a run, and refuse one that does not fit the disk. Nothing is run."""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from nan_merge.cli.parser import command_parser, positive
from nan_merge.core.command_line import command_line

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Parse the command line and print the plan; exit code 1 if the run does not fit."""
    parser = command_parser("plan", __doc__, "nan-merge plan --configfile config/study/every_method.yaml")
    parser.add_argument("--directory", type=Path, default=Path(), metavar="FOLDER", help="the folder that Snakemake runs in")
    parser.add_argument("--configfile", type=Path, nargs="+", default=[], metavar="FILE", help="overlays, as of snakemake")
    parser.add_argument(
        "--config", type=values, nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="as of snakemake, or as JSON"
    )
    parser.add_argument("--jobs", type=positive, default=os.cpu_count() or 1, metavar="N", help="jobs at once (%(default)s)")
    parser.add_argument("--json", action="store_true", default=False, help="print JSON")
    plan(parser.parse_args())


def values(text: str) -> dict[str, Any]:
    """Read `KEY=VALUE`, the value in YAML, or a JSON mapping of several."""
    from nan_merge.core.errors import UserError
    from nan_merge.core.text import parse_json, parse_yaml

    key, equals, value = text.partition("=")
    try:
        found = {key: parse_yaml(value, "--config")} if equals and key.isidentifier() else parse_json(text, "--config")
    except UserError as error:
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, such as scoring='{{device: cuda}}', or JSON; {error}") from None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, or a JSON mapping, found {text}")
    return found


def plan(args: argparse.Namespace) -> None:
    """Print the plan of a run in a folder; its imports take a second, which `--help` does not wait for."""
    from experiment.experiment import Experiment
    from experiment.parts import ConfigParts
    from planning.jobs import planned_jobs
    from planning.overview import check_fits, overview
    from planning.sizes import Sizes
    from planning.text import text

    overlays = [file.resolve() for file in args.configfile]
    os.chdir(args.directory)
    given = {key: value for each in args.config for key, value in each.items()}
    parts = ConfigParts.read(ROOT, overlays, given)
    found = overview(Sizes(Experiment(parts.merged(), ROOT, parts), ROOT), planned_jobs(ROOT, overlays, given), args.jobs)
    print(json.dumps(found, indent=1, ensure_ascii=False) if args.json else text(found), flush=True)
    check_fits(found)


if __name__ == "__main__":
    command_line(main)
