"""Score checkpoints on prepared data: top-1 accuracy and every prediction (rules evaluate_checkpoint, evaluate_candidate)."""

import argparse
import functools
import math
from pathlib import Path

import numpy as np

from merging.checkpoints import Checkpoint
from merging.classification import embed, predict
from merging.data import Dataset
from merging.evaluate import family
from merging.provenance import publish, versions
from merging.results import UserError, command_line, write_json

METRICS = {"test": "accuracy", "validation": "validation_accuracy"}


def main() -> None:
    """Parse the command line and score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", required=True)
    parser.add_argument("--checkpoints", type=Path, nargs="+", required=True, help="one for all tasks, or one for each")
    parser.add_argument("--datasets", type=Path, nargs="+", required=True)
    parser.add_argument("--heads", type=Path, nargs="+", required=True)
    parser.add_argument("--split", choices=sorted(METRICS), default="test")
    parser.add_argument("--suite", required=True)
    parser.add_argument("--method", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--scores", type=Path, required=True)
    parser.add_argument("--predictions", type=Path, required=True)
    args = parser.parse_args()
    if len(args.checkpoints) not in (1, len(args.datasets)):
        raise UserError(f"{len(args.checkpoints)} checkpoints for {len(args.datasets)} data sets; give one, or one for each")
    checkpoints = args.checkpoints * len(args.datasets) if len(args.checkpoints) == 1 else args.checkpoints
    module = family(args.family)
    load = functools.lru_cache(maxsize=1)(module.load)
    scores, predictions = [], {}
    for checkpoint, dataset, head in zip(checkpoints, args.datasets, args.heads, strict=True):
        data, task = Dataset(dataset), dataset.name
        inputs, labels = data.inputs(args.split), np.asarray(data.labels(args.split))
        found = predict(embed(load(checkpoint), inputs, module.batches(inputs, 64)), Checkpoint(head).read("head"))
        value, n = float((found == labels).mean()), len(labels)
        score = {"suite": args.suite, "method": args.method, "task": task, "metric": METRICS[args.split]}
        scores.append({**score, "value": value, "stderr": math.sqrt(value * (1 - value) / n), "n": n, "seed": args.seed})
        predictions |= {f"{task}.prediction": found, f"{task}.label": labels}
        print(f"{args.method}, {task}: {value:.4f} of {n} {args.split} examples")
    with publish(args.predictions) as part, open(part, "wb") as stream:
        np.savez(stream, **predictions)
    provenance = {"checkpoints": [str(c) for c in args.checkpoints], "device": "cpu", "dtype": "float32", "versions": versions()}
    write_json(args.scores, {"scores": scores, "provenance": provenance})


if __name__ == "__main__":
    command_line(main)
