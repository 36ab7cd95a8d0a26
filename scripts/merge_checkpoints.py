"""Merge experts into one model by a method's sentence and its coefficients (rules merge_checkpoints, merge_candidate)."""

import argparse
import json
from pathlib import Path

from merging.card import document, origin
from merging.checkpoints import Checkpoint
from merging.coefficients import CoefficientTable
from merging.devices import device
from merging.engine import merge
from merging.hub import Source
from merging.layouts import align
from merging.provenance import versions
from merging.recipe import bind
from merging.results import command_line, named_folders, read_json


def main() -> None:
    """Parse the command line and merge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--experts", nargs="+", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--sentence", type=json.loads, required=True, help="slots preprocess, combine and postprocess as JSON")
    parser.add_argument("--coefficients", type=Path, required=True)
    parser.add_argument("--thresholds", type=Path, help="measured thresholds, for a method that trims")
    parser.add_argument("--evidence", nargs="+", default=[], metavar="NAME=FOLDER", help="for a method that needs it")
    parser.add_argument("--task", help="the expert whose task the merge is for, for a method that is not static")
    parser.add_argument("--layout", type=json.loads, default={}, help="exclude, vocabulary and missing as JSON")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    coefficients = read_json(args.coefficients)
    thresholds = read_json(args.thresholds)["thresholds"] if args.thresholds else {}
    models = align(args.base, named_folders(args.experts), **args.layout)
    record = {
        "name": coefficients["method"],
        "method": coefficients["method"],
        "sentence": {**args.sentence, **coefficients["sentence"]},
        "coefficients": coefficients,
        "thresholds": thresholds,
        "evidence": args.evidence,
        "task": args.task,
        **args.layout,
        "seed": args.seed,
        "device": args.device,
        "notes": models.notes,
        "versions": versions(),
    }
    sources = {name: Source.of(folder) for name, folder in {"base": args.base, **named_folders(args.experts)}.items()}

    def finish(folder: Path, inputs: dict[str, str]) -> None:
        document(folder, {**record, "inputs": {name: origin(source, inputs[name]) for name, source in sources.items()}})

    merge(
        models,
        bind(args.sentence, coefficients["method"]),
        CoefficientTable.of(coefficients),
        thresholds,
        args.output,
        evidence={name: Checkpoint(folder) for name, folder in named_folders(args.evidence).items()},
        task=args.task,
        seed=args.seed,
        threads=args.threads,
        device=device(args.device),
        finish=finish,
    )


if __name__ == "__main__":
    command_line(main)
