"""Merge experts into one model by a method's method_spec and its coefficients (rules merge_checkpoints, merge_candidate)."""

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nan_merge.catalogue.methods import Catalogue
from nan_merge.catalogue.places import catalogue_root
from nan_merge.checkpoints.checkpoint import Checkpoint
from nan_merge.core.command_line import command_line, parse_named_folders
from nan_merge.core.errors import UserError
from nan_merge.core.files import read_json, write_json
from nan_merge.engine.request import MergeRequest
from nan_merge.layouts.unify import unify_layout
from nan_merge.methods.coefficients import CoefficientTable
from nan_merge.methods.recipe import bind
from nan_merge.methods.search_space import put
from nan_merge.standalone.documented_merge import merge_and_document
from nan_merge.standalone.model_card import digest
from nan_merge.standalone.sources import Source
from scripts.arguments import LAYOUT, options, parse_with_spec


def main() -> None:
    """Parse the command line and merge."""
    parser = options(__doc__, "base", "experts", "thresholds", "threads", "compute", "blas-threads", "output")
    parser.add_argument("--coefficients", type=Path, required=True)
    parser.add_argument("--calibration", nargs="+", default=[], metavar="NAME=FOLDER", help="for a method that needs it")
    parser.add_argument("--digest", type=Path, required=True, help="file of hashes, provenance and card")
    parser.add_argument("--task", help="the expert whose task the merge is for, for a method that is not static")
    parser.add_argument("--nested", metavar="METHOD", help="the method of a nested merge, which has a name of its own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    origins = "by name: `repo` and `commit` of the base and the experts that came from a hub, `name` of an expert that is a merge"
    args = parse_with_spec(parser, method_spec="stages space, preprocess, combine, postprocess", layout=LAYOUT, origins=origins)
    coefficients = read_json(args.coefficients)
    experts, method = parse_named_folders(args.experts), args.nested or coefficients["method"]
    args.method_spec = put(args.method_spec, chosen_for_merge(coefficients))
    request = MergeRequest(
        unify_layout(args.base, experts, **args.layout),
        bind(args.method_spec, method),
        CoefficientTable.of(coefficients),
        read_json(args.thresholds)["thresholds"] if args.thresholds else {},
        {name: Checkpoint(folder) for name, folder in parse_named_folders(args.calibration).items()},
        args.task,
        args.seed,
        compute=np.dtype(args.compute),
        blas_threads=args.blas_threads,
    )
    about = {
        "name": coefficients["method"],
        "method": method,
        **about_method(method),
        "method_spec": {**args.method_spec, **coefficients["method_spec"]},
        "coefficients": coefficients,
        "calibration": args.calibration,
        "task": args.task,
        "prepared": any("repo" in origin for origin in args.origins.values()),
        **args.layout,
    }
    folders = {"base": args.base, **experts}
    sources = {name: replace(Source.of(folder), **args.origins.get(name, {})) for name, folder in folders.items()}
    merge_and_document(request, sources, about, args.output, threads=args.threads, device_name=args.device)
    write_json(args.digest, digest(args.output))


def chosen_for_merge(coefficients: dict[str, Any]) -> dict[str, Any]:
    """Return the hyper-parameters of preprocess, combine and postprocess that were chosen on validation, by path."""
    chosen = coefficients.get("chosen")
    stages = ("preprocess.", "combine.", "postprocess.")
    return {path: value for path, value in chosen.items() if path.startswith(stages)} if isinstance(chosen, dict) else {}


def about_method(method: str) -> dict[str, Any]:
    """Return label and paper of a method for its card: no parameter of the job, so that another wording merges nothing again."""
    with contextlib.suppress(UserError):  # a candidate of a tuned method
        record = Catalogue(catalogue_root()).members(method)[method]
        return {key: record[key] for key in ("label", "reference") if key in record}
    return {}


if __name__ == "__main__":
    command_line(main)
