"""Measure the exact magnitude at which trimming to one density cuts each expert (rule measure_threshold)."""

import argparse
import json
from pathlib import Path

from merging.measure import threshold
from merging.results import command_line, write_json


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--experts", type=Path, nargs="+", required=True, help="folders, named like the experts")
    parser.add_argument("--exclude", type=json.loads, default=[], help="regular expressions as a JSON list")
    parser.add_argument("--density", type=float, required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    found = {e.name: threshold(args.base, e, args.density, args.exclude) for e in sorted(args.experts)}
    write_json(args.output, {"density": args.density, "thresholds": found})


if __name__ == "__main__":
    command_line(main)
