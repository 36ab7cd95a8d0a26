"""Merge a subset of the experts by several methods and score each merge on the tasks of the subset (rule score_subset)."""

import argparse
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from nan_merge.calibration.sums import with_calibration
from nan_merge.checkpoints.checkpoint import Checkpoint
from nan_merge.core.atomic import atomic_write
from nan_merge.core.command_line import command_line, parse_named_folders
from nan_merge.core.files import read_json, write_json
from nan_merge.core.scoring import BATCH
from nan_merge.core.versions import versions
from nan_merge.data.dataset import Dataset
from nan_merge.data.metrics import scores_of
from nan_merge.engine.devices import device
from nan_merge.engine.merge import merge
from nan_merge.engine.request import MergeRequest
from nan_merge.layouts.unify import Models, unify_layout
from nan_merge.methods.recipe import bind
from nan_merge.models.classification import Forward, embed
from nan_merge.models.heads import fitting, predict
from nan_merge.models.registry import find_family
from scripts.arguments import LAYOUT, options, parse_with_spec

SPLIT = "test"


def main() -> None:
    """Parse the command line, then merge and score method by method."""
    args = arguments()
    experts = parse_named_folders(args.experts)
    models = unify_layout(args.base, experts, **args.layout)
    data = [Dataset(folder) for folder in args.datasets]
    sizes = {each.folder.name: each.record["splits"].get("train") for each in data} | args.examples
    record: dict[str, Any] = {"scores": [], "provenance": {**forward_of(args).record(), "versions": versions(), "merges": {}}}
    predictions: dict[str, np.ndarray] = {}
    args.scores.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=args.scores.parent, prefix=".", suffix=".part") as scratch:
        for method in args.methods:
            request, folder = requested(method, models, sizes, args.seed), Path(scratch) / "merged"
            digests = merged(replace(request, compute=np.dtype(args.compute), blas_threads=args.blas_threads), folder, args)
            record["provenance"]["merges"][method["id"]] = {"coefficients": request.table.record(), **digests}
            scores, found = scored(folder, data, args, method["id"])
            shutil.rmtree(folder)
            record["scores"] += scores
            predictions |= found
    with atomic_write(args.predictions) as part, open(part, "wb") as stream:
        np.savez(stream, **predictions)
    write_json(args.scores, record)


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    given = ("family", "base", "experts", "datasets", "heads", "device", "precision", "suite", "seed", "threads", "scores")
    parser = options(__doc__, *given, "compute", "blas-threads")
    parser.add_argument("--subset", required=True, help="its id")
    parser.add_argument("--predictions", type=Path, required=True)
    parser.add_argument("--merge-device", default="cpu", help="of the merges: cpu, cuda or cuda:N")
    parser.add_argument("--batch-size", type=int, default=BATCH)
    methods = "a list of `id`, `method_spec`, and files of measurements: `measures`, `thresholds`, `calibration` by expert"
    return parse_with_spec(parser, methods=methods, layout=LAYOUT, examples="training-set sizes by expert, where they are stated")


def forward_of(args: argparse.Namespace) -> Forward:
    """Return the settings of the forward passes."""
    return Forward(args.device, args.precision, args.threads)


def requested(method: Mapping[str, Any], models: Models, sizes: Mapping[str, int | None], seed: int) -> MergeRequest:
    """Return the merge of the given experts by a method, with coefficients from the norms of these alone."""
    recipe, experts = bind(method["method_spec"], method["id"]), list(models.experts)
    folders = {name: Path(folder) for name, folder in method["calibration"].items()}
    measured = of_experts(read_json(method["measures"]), experts)
    if "calibration" in recipe.norms_of:
        measured = with_calibration(measured, folders)
    table = recipe.estimate({**measured, "examples": [sizes[expert] for expert in experts]})
    thresholds = read_json(method["thresholds"])["thresholds"] if method["thresholds"] else {}
    calibration = {name: Checkpoint(folder) for name, folder in folders.items()}
    return MergeRequest(models, recipe, table, thresholds, calibration, seed=seed)


def of_experts(measures: Mapping[str, Any], chosen: Sequence[str]) -> dict[str, Any]:
    """Return measured norms of these experts alone: the sums of squares of an expert do not depend on the others."""
    places = [measures["experts"].index(expert) for expert in chosen]
    tensors = {
        name: {key: [value[place] for place in places] if isinstance(value, list) else value for key, value in record.items()}
        for name, record in measures["tensors"].items()
    }
    return {**measures, "experts": list(chosen), "tensors": tensors}


def merged(request: MergeRequest, folder: Path, args: argparse.Namespace) -> dict[str, Mapping[str, str]]:
    """Write a merge, and return the digests of the tensors that entered, by model, and of the files that were written."""
    found: dict[str, Mapping[str, str]] = {}

    def told(_: Path, inputs: Mapping[str, str], written: Mapping[str, str]) -> None:
        found.update(inputs=inputs, merged=written)

    merge(request, folder, threads=args.threads, device=device(args.merge_device), finish=told)
    return found


def scored(
    folder: Path, data: Sequence[Dataset], args: argparse.Namespace, method: str
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Return the scores of a merge on all tasks, and its predictions with the right answers."""
    module, scores, predictions = find_family(args.family), [], dict[str, np.ndarray]()
    encoder = module.load(folder)
    for dataset, head in zip(data, args.heads, strict=True):
        task, inputs, labels = dataset.folder.name, dataset.inputs(SPLIT), np.asarray(dataset.labels(SPLIT))
        embeddings = embed(encoder, inputs, module.batches(inputs, args.batch_size), forward_of(args))
        found = predict(embeddings, fitting(head, dataset, embeddings, folder, args.precision))
        named = {"suite": f"{args.suite}/{args.subset}", "method": method, "task": task, "metric": "accuracy"}
        numbers = scores_of("accuracy", SPLIT, found, labels)["accuracy"]
        scores.append({**named, **numbers, "n": len(labels), "seed": args.seed})
        predictions |= {f"{method}/{task}.prediction": found, f"{task}.label": labels}
    average = np.mean([score["value"] for score in scores])
    print(f"{method}, {', '.join(dataset.folder.name for dataset in data)}: average accuracy {average:.4f}", flush=True)
    return scores, predictions


if __name__ == "__main__":
    command_line(main)
