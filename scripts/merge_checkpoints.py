"""Merge experts into one model by a method's method_spec and its coefficients (rules merge_checkpoints, merge_candidate)."""

import argparse
from pathlib import Path

from nan_merge.checkpoints.checkpoint import Checkpoint
from nan_merge.core.command_line import command_line, parse_named_folders
from nan_merge.core.files import read_json
from nan_merge.core.versions import versions
from nan_merge.engine.devices import device
from nan_merge.engine.merge import merge
from nan_merge.layouts.unify import unify_layout
from nan_merge.methods.coefficients import CoefficientTable
from nan_merge.methods.recipe import bind
from nan_merge.standalone.model_card import document, origin
from nan_merge.standalone.sources import Source
from scripts.arguments import LAYOUT, parse_with_spec


def main() -> None:
    """Parse the command line and merge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--experts", nargs="+", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--coefficients", type=Path, required=True)
    parser.add_argument("--thresholds", type=Path, help="measured thresholds, for a method that trims")
    parser.add_argument("--calibration", nargs="+", default=[], metavar="NAME=FOLDER", help="for a method that needs it")
    parser.add_argument("--task", help="the expert whose task the merge is for, for a method that is not static")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--output", type=Path, required=True)
    args = parse_with_spec(parser, method_spec="stages preprocess, combine, postprocess of the method", layout=LAYOUT)
    coefficients = read_json(args.coefficients)
    thresholds = read_json(args.thresholds)["thresholds"] if args.thresholds else {}
    models = unify_layout(args.base, parse_named_folders(args.experts), **args.layout)
    record = {
        "name": coefficients["method"],
        "method": coefficients["method"],
        "method_spec": {**args.method_spec, **coefficients["method_spec"]},
        "coefficients": coefficients,
        "thresholds": thresholds,
        "calibration": args.calibration,
        "task": args.task,
        **args.layout,
        "seed": args.seed,
        "device": args.device,
        "notes": models.notes,
        "versions": versions(),
    }
    sources = {name: Source.of(folder) for name, folder in {"base": args.base, **parse_named_folders(args.experts)}.items()}

    def finish(folder: Path, inputs: dict[str, str]) -> None:
        document(folder, {**record, "inputs": {name: origin(source, inputs[name]) for name, source in sources.items()}})

    merge(
        models,
        bind(args.method_spec, coefficients["method"]),
        CoefficientTable.of(coefficients),
        thresholds,
        args.output,
        calibration={name: Checkpoint(folder) for name, folder in parse_named_folders(args.calibration).items()},
        task=args.task,
        seed=args.seed,
        threads=args.threads,
        device=device(args.device),
        finish=finish,
    )


if __name__ == "__main__":
    command_line(main)
