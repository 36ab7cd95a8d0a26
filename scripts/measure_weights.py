"""Measure squared norms of weights and task vectors, tensor by tensor (rule measure_weights)."""

import argparse
import json
from pathlib import Path

from merging.measure import norms
from merging.results import command_line, write_json


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--experts", type=Path, nargs="+", required=True, help="folders, named like the experts")
    parser.add_argument("--exclude", type=json.loads, default=[], help="regular expressions as a JSON list")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    write_json(args.output, norms(args.base, {folder.name: folder for folder in args.experts}, args.exclude))


if __name__ == "__main__":
    command_line(main)
