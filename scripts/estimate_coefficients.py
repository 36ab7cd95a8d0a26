"""Turn measured norms into the coefficient table of one method (rule estimate_coefficients)."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from merging.recipe import bind
from merging.results import command_line, named_folders, read_json, write_json


def main() -> None:
    """Parse the command line and estimate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measures", type=Path, required=True)
    parser.add_argument("--sentence", type=json.loads, required=True, help="slots coefficients, control, tune as JSON")
    parser.add_argument("--selected", type=Path, help="the choice made on validation, for a tuned method")
    parser.add_argument("--evidence", nargs="+", default=[], metavar="NAME=FOLDER", help="for `norm_of: evidence`")
    parser.add_argument("--suite", required=True)
    parser.add_argument("--method", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    tune = args.sentence.pop("tune", None)
    record = {"suite": args.suite, "method": args.method, "seed": args.seed}
    if args.selected:
        record["chosen"] = read_json(args.selected)["value"]
        ((word, given),) = args.sentence["coefficients"].items()
        args.sentence["coefficients"] = {word: {**given, tune["hyper_parameter"]: record["chosen"]}}
    measures = with_evidence(read_json(args.measures), named_folders(args.evidence))
    table = bind(args.sentence, args.method).estimate(measures)
    write_json(args.output, {**record, **table.record(), "sentence": args.sentence})


def with_evidence(measures: dict[str, Any], folders: Mapping[str, Path]) -> dict[str, Any]:
    """Add to every tensor's sums of squares those of the evidence that was collected of each expert, if there is any."""
    if folders:
        found = [read_json(folders[expert] / "evidence.json")["tensors"] for expert in measures["experts"]]
        for name, sums in measures["tensors"].items():
            sums["evidence"] = [each.get(name, 0.0) for each in found]
    return measures


if __name__ == "__main__":
    command_line(main)
