"""Score checkpoints on prepared data: metrics and every prediction (rules evaluate_checkpoint, evaluate_candidate)."""

import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from nan_merge.core.atomic import atomic_write
from nan_merge.core.command_line import command_line
from nan_merge.core.errors import UserError
from nan_merge.core.files import write_json
from nan_merge.core.scoring import BATCH
from nan_merge.core.versions import versions
from nan_merge.data.dataset import Dataset
from nan_merge.data.metrics import METRICS, scores_of
from nan_merge.models.classification import Forward, digest_files, embed
from nan_merge.models.heads import answers, fitting
from nan_merge.models.registry import find_family
from nan_merge.selection.scores import complete_trials, stopped, validation_scores
from scripts.arguments import options

PREFIX = {"test": "", "validation": "validation_"}  # of the name of a metric


def main() -> None:
    """Parse the command line and score."""
    args = arguments().parse_args()
    if len(args.checkpoints) not in (1, len(args.datasets)) and not args.ensemble:
        raise UserError(f"{len(args.checkpoints)} checkpoints for {len(args.datasets)} data sets; give one, or one for each")
    if min(args.batch_size, args.threads) < 1:
        raise UserError(f"--batch-size {args.batch_size}, --threads {args.threads}: expected 1 or more of both")
    metrics = chosen(args.metrics, [folder.name for folder in args.datasets])
    forward, module = Forward(args.device, args.precision, args.threads), find_family(args.family)
    load = functools.lru_cache(maxsize=len(args.checkpoints) if args.ensemble or args.joint else 1)(module.load)
    complete = list(complete_trials(args.earlier).values())
    so_far = next(iter(validation_scores(args.before).values()), {})
    scores: list[dict[str, Any]] = []
    predictions: dict[str, Any] = {}
    pruned: dict[str, Any] = {}
    for number, dataset in enumerate(args.datasets):
        task = dataset.name
        if why := stopped(so_far, complete):
            unscored = {**pruned.get("unscored", {}), task: len(Dataset(dataset).labels(args.split))}
            pruned = {"method": args.method, **why, "unscored": unscored}
            print(f"{args.method}, {task}: not scored, {why['average']:.4f} after {why['after']} is below {why['median']:.4f}")
            continue
        found, labels = answered(args, number, load, forward, module)
        metric = metrics.get(task, "accuracy")
        measured = scores_of(metric, args.split, found, labels)
        so_far[task] = measured[metric]["value"]
        common = {"suite": args.suite, "method": args.method, "task": task}
        for name, numbers in measured.items():
            scores.append({**common, "metric": PREFIX[args.split] + name, **numbers, "n": len(labels), "seed": args.seed})
        predictions |= {f"{task}.prediction": found, f"{task}.label": labels}
        shown = ", ".join(f"{name} {numbers['value']:.4f}" for name, numbers in measured.items())
        print(f"{args.method}, {task}: {shown} of {len(labels)} {args.split} examples", flush=True)
    with atomic_write(args.predictions) as part, open(part, "wb") as stream:
        np.savez(stream, **predictions)
    about = {"pruned": pruned} if pruned else {}
    write_json(args.scores, {"scores": scores, **about, "provenance": provenance(args, module, forward)})


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    given = ("family", "checkpoints", "datasets", "heads", "device", "precision", "suite", "method", "seed", "scores")
    parser = options(__doc__, *given)
    parser.add_argument("--ensemble", action="store_true", help="score the mean of the logits of all checkpoints")
    parser.add_argument("--joint", action="store_true", help="tell the classes of all data sets apart, each by its own head")
    parser.add_argument("--split", choices=sorted(PREFIX), default="test")
    parser.add_argument("--metrics", nargs="+", default=[], metavar="TASK=METRIC", help=f"not accuracy: {', '.join(METRICS)}")
    parser.add_argument("--batch-size", type=int, default=BATCH)
    parser.add_argument("--threads", type=int, default=1, help="of the CPU, each for a batch; the same bytes for any number")
    parser.add_argument("--predictions", type=Path, required=True)
    of_trials: dict[str, Any] = {"type": Path, "nargs": "+", "default": [], "metavar": "FILE.json"}
    parser.add_argument("--earlier", help="scores of trials of earlier rounds, by which a trial may be stopped", **of_trials)
    parser.add_argument("--before", help="scores of the same trial on tasks before these", **of_trials)
    return parser


def answered(
    args: argparse.Namespace, number: int, load: Callable[[Path], Any], forward: Forward, module: ModuleType
) -> tuple[np.ndarray, np.ndarray]:
    """Return predictions (N,) and labels (N,) of one task."""
    data = Dataset(args.datasets[number])
    inputs, labels = data.inputs(args.split), np.asarray(data.labels(args.split))

    @functools.cache
    def embedded(checkpoint: Path) -> np.ndarray:
        return embed(load(checkpoint), inputs, module.batches(inputs, args.batch_size), forward)

    logits = [logits_of(args, each, embedded) for each in (range(len(args.datasets)) if args.joint else [number])]
    labels = labels + sum(each.shape[1] for each in logits[:number]) if args.joint else labels
    return answers(torch.cat(logits, 1)), labels


def logits_of(args: argparse.Namespace, number: int, embedded: Callable[[Path], np.ndarray]) -> torch.Tensor:
    """Return the logits (N, C) of the classes of one task: of its checkpoint, or the mean of all of an ensemble."""
    own = args.checkpoints[number : number + 1] if len(args.checkpoints) > 1 else args.checkpoints
    data, head = Dataset(args.datasets[number]), args.heads[number]
    found = [
        fitting(head, data, embedded(each), each, args.precision)(torch.from_numpy(embedded(each)))
        for each in (args.checkpoints if args.ensemble else own)
    ]
    return sum(found[1:], found[0]) / len(found)


def chosen(pairs: list[str], tasks: list[str]) -> dict[str, str]:
    """Return the metrics of `TASK=METRIC` by task; UserError for another task or metric."""
    found = dict(pair.partition("=")[::2] for pair in pairs)
    for task, metric in found.items():
        if task not in tasks or metric not in METRICS:
            wanted = f"TASK=METRIC with a task of --datasets ({', '.join(tasks)}) and one of {', '.join(METRICS)}"
            raise UserError(f"--metrics: found '{task}={metric}'; expected {wanted}")
    return found


def provenance(args: argparse.Namespace, module: ModuleType, forward: Forward) -> dict[str, Any]:
    """Say how it was computed and from what: device, type, versions, and the XXH3-128 of the files that entered."""
    entered = {str(head): [head] for head in args.heads}
    for folder in dict.fromkeys(args.checkpoints):
        entered[str(folder)] = [file for name in ("*.safetensors", "*.bin", "config.json") for file in folder.glob(name)]
    for folder in args.datasets:  # the inputs are told by dataset.json, which has the digest of their source
        entered[str(folder)] = [folder / "dataset.json", folder / f"{args.split}.labels.npy"]
    return {
        **forward.record(),
        "family": module.__name__.rpartition(".")[2],
        "batch_size": args.batch_size,
        "checkpoints": [str(folder) for folder in args.checkpoints],
        "xxh3_128": {path: digest_files(files) for path, files in entered.items()},
        "versions": versions(),
    }


if __name__ == "__main__":
    command_line(main)
