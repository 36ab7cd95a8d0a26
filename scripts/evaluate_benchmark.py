"""Score language models on benchmarks of lm_eval: accuracy and every answer (rule evaluate_benchmark)."""

import argparse
import functools
import gzip
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nan_merge.core.atomic import atomic_write
from nan_merge.core.command_line import command_line
from nan_merge.core.errors import UserError
from nan_merge.core.files import canonical, write_json
from nan_merge.core.versions import versions
from nan_merge.models.classification import PRECISIONS, Forward, digest_files
from nan_merge.models.harness import (
    Benchmark,
    Sample,
    answers,
    halved_until_it_fits,
    kept,
    load_model,
    load_tasks,
    run_task,
)
from nan_merge.models.own_tasks import definition
from scripts.arguments import options, parse_with_spec

Ask = Callable[[Any, Benchmark], tuple[list[Sample], int]]
DECIDES = ("lm_eval", "transformers", "tokenizers", "torch", "vllm", "machine")  # versions that an answer depends on


def main() -> None:
    """Parse the command line and score."""
    args = parse_with_spec(
        arguments(), benchmarks="entries `harness:` of tasks, each with its `id`", settings="`harness:` of the suite"
    )
    if len(args.checkpoints) not in (1, len(args.benchmarks)) or len(args.data) != len(args.benchmarks):
        raise UserError(f"{len(args.checkpoints)} checkpoints, {len(args.data)} folders, {len(args.benchmarks)} benchmarks")
    if args.batch_size < 1:
        raise UserError(f"--batch-size {args.batch_size}: expected 1 or more; `auto` would make answers depend on the machine")
    forward = Forward(args.device, args.precision)
    checkpoints = args.checkpoints * (len(args.benchmarks) if len(args.checkpoints) == 1 else 1)
    scores: list[dict[str, Any]] = []
    predictions: dict[str, np.ndarray] = {}
    batch_sizes: dict[str, int] = {}
    load = functools.lru_cache(maxsize=1)(lambda folder: load_model(folder, args.device, args.precision, args.settings))
    with (
        tempfile.TemporaryDirectory() as scratch,
        atomic_write(args.samples) as part,
        gzip.GzipFile(part, "wb", mtime=0) as lines,
    ):
        os.environ["HF_DATASETS_CACHE"] = scratch  # what datasets makes of the data; not those of another run
        for checkpoint, data, entry in zip(checkpoints, args.data, args.benchmarks, strict=True):
            task, harness = entry["id"], {key: value for key, value in entry.items() if key != "id"}
            ask = functools.partial(asked, args, lambda folder=checkpoint: load(folder))
            samples = scored(args, forward, checkpoint, Benchmark(task, data, harness), ask, batch_sizes)
            found = answers(samples)
            lines.writelines(f"{canonical({'benchmark': task, **each})}\n".encode() for of in samples.values() for each in of)
            score = {"suite": args.suite, "method": args.method, "task": task, "n": len(found.label), "seed": args.seed}
            scores += [{**score, **each} for each in found.scores()]
            predictions |= {f"{task}.prediction": found.prediction, f"{task}.label": found.label}
            predictions |= {f"{task}.cluster": found.cluster} if len(samples) > 1 else {}
            print(f"{args.method}, {task}: {found.right.mean():.4f} of {len(found.label)} examples", flush=True)
    with atomic_write(args.predictions) as part, open(part, "wb") as stream:
        np.savez(stream, **predictions)
    write_json(args.scores, {"scores": scores, "provenance": provenance(args, forward, batch_sizes)})


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = options(__doc__, "device", "suite", "method", "seed")
    parser.add_argument("--checkpoints", type=Path, nargs="+", required=True, help="one for all benchmarks, or one for each")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folder of the data of each benchmark")
    parser.add_argument("--precision", choices=list(PRECISIONS), default="float32", help="type of the weights")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--cache", type=Path, required=True, help="folder of answers that were given already")
    parser.add_argument("--scores", type=Path, required=True)
    parser.add_argument("--predictions", type=Path, required=True)
    parser.add_argument("--samples", type=Path, required=True, help="FILE.jsonl.gz: question, answer and output of every example")
    return parser


def asked(args: argparse.Namespace, load: Callable[[], Any], task: Any, benchmark: Benchmark) -> tuple[list[Sample], int]:
    """Return the samples of a harness task and the batch size that fitted the memory."""

    def attempt(size: int) -> list[Sample]:
        return run_task(load(), task, benchmark, args.settings, size)

    return halved_until_it_fits(attempt, args.batch_size, lambda text: print(text, flush=True))


def scored(
    args: argparse.Namespace, forward: Forward, checkpoint: Path, benchmark: Benchmark, ask: Ask, batch_sizes: dict[str, int]
) -> dict[str, list[Sample]]:
    """Return the samples of a benchmark by harness task; `ask` runs a task that the cache does not have."""
    tasks = load_tasks(benchmark)
    about = {
        "model": model_digest(checkpoint),
        "data": digest_files(file for file in benchmark.data.glob("**/*") if file.is_file()),
        "settings": args.settings,
        "batch_size": args.batch_size,
        **{key: value for key, value in forward.record().items() if key != "threads"},
        "versions": {name: version for name, version in versions().items() if name in DECIDES},
        "harness": {key: benchmark.harness.get(key) for key in ("folder", "num_fewshot", "metric", "filter")},
        "definition": definition(benchmark.harness["folder"]),
    }
    found: dict[str, list[Sample]] = {}
    for name, task in tasks.items():
        found[name], batch_sizes[name] = kept(args.cache, {**about, "task": name}, functools.partial(ask, task, benchmark))
        print(f"{args.method}, {benchmark.id}: {len(found)} of {len(tasks)} harness tasks, {name}", flush=True)
    return found


@functools.cache
def model_digest(folder: Path) -> str:
    """Return the XXH3-128 of weights, configs and tokenizer of a model."""
    kinds = ("*.safetensors", "*.bin", "*config.json", "tokenizer*", "special_tokens_map.json", "vocab*", "merges.txt", "*.jinja")
    return digest_files({file for kind in kinds for file in folder.glob(kind)})


def provenance(args: argparse.Namespace, forward: Forward, batch_sizes: dict[str, int]) -> dict[str, Any]:
    """Say how it was computed and from what; `smaller_batches` are those of harness tasks for which memory ran out."""
    return {
        **forward.record(),
        "backend": args.settings.get("backend", "hf"),
        "batch_size": args.batch_size,
        "smaller_batches": {name: size for name, size in batch_sizes.items() if size != args.batch_size},
        "benchmarks": args.benchmarks,
        "settings": args.settings,
        "checkpoints": [str(folder) for folder in args.checkpoints],
        "xxh3_128": {str(folder): model_digest(folder) for folder in args.checkpoints},
        "versions": versions(),
    }


if __name__ == "__main__":
    command_line(main)
