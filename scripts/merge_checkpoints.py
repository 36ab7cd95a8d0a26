"""Merge experts into one model by a method's sentence and its coefficients (rules merge_checkpoints, merge_candidate)."""

import argparse
import json
from pathlib import Path

from merging.coefficients import CoefficientTable
from merging.engine import merge
from merging.provenance import versions
from merging.recipe import bind
from merging.results import command_line, read_json


def main() -> None:
    """Parse the command line and merge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--experts", type=Path, nargs="+", required=True, help="folders, named like the experts")
    parser.add_argument("--sentence", type=json.loads, required=True, help="slots preprocess and combine as JSON")
    parser.add_argument("--coefficients", type=Path, required=True)
    parser.add_argument("--thresholds", type=Path, help="measured thresholds, for a method that trims")
    parser.add_argument("--exclude", type=json.loads, default=[], help="regular expressions as a JSON list")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    coefficients = read_json(args.coefficients)
    thresholds = read_json(args.thresholds)["thresholds"] if args.thresholds else {}
    merge(
        args.base,
        {folder.name: folder for folder in args.experts},
        bind(args.sentence, coefficients["method"]),
        CoefficientTable.of(coefficients),
        args.output,
        thresholds=thresholds,
        exclude=args.exclude,
        seed=args.seed,
        provenance={
            "sentence": args.sentence,
            "coefficients": coefficients,
            "thresholds": thresholds,
            "exclude": args.exclude,
            "seed": args.seed,
            "device": "cpu",
            "versions": versions(),
        },
    )


if __name__ == "__main__":
    command_line(main)
