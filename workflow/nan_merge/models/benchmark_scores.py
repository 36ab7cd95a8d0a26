"""Score a model on benchmarks: its metric, every answer and every output, for the workflow and `nan-merge evaluate`."""

from __future__ import annotations

import functools
import gzip
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nan_merge.core.atomic import atomic_write
from nan_merge.core.errors import UserError
from nan_merge.core.files import canonical, write_json
from nan_merge.core.versions import versions
from nan_merge.data.metrics import of_benchmark
from nan_merge.models.classification import Forward, digest_files
from nan_merge.models.harness.answers import Sample, answers
from nan_merge.models.harness.backends import halved_until_it_fits
from nan_merge.models.harness.cache import kept
from nan_merge.models.harness.tasks import Benchmark
from nan_merge.models.runners import Runner, runner_of

DECIDES = (  # versions that an answer depends on
    "lm_eval", "transformers", "tokenizers", "torch", "torchvision", "pillow", "vllm", "machine",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How models are run; `settings` are `harness:` of a suite, `cache` is the folder of answers that were given already.

    Raises UserError for a batch size below 1 and an unknown or missing device.
    """

    device: str = "cpu"
    precision: str = "float32"
    batch_size: int
    settings: Mapping[str, Any]
    cache: Path

    def __post_init__(self) -> None:
        """Check the batch size."""
        if self.batch_size < 1:
            raise UserError(
                f"--batch-size {self.batch_size}: expected 1 or more; `auto` would make answers depend on the machine"
            )

    @functools.cached_property
    def forward(self) -> Forward:
        """Device and precision, checked."""
        return Forward(self.device, self.precision)

    def identity(self, checkpoint: Path, benchmark: Benchmark) -> dict[str, Any]:
        """Return all that the answers of a model to a benchmark depend on."""
        return {
            "model": model_digest(checkpoint),
            "data": digest_files(file for folder in (benchmark.data, *benchmark.more) for file in _visible(folder)),
            "settings": self.settings,
            "batch_size": self.batch_size,
            **{key: value for key, value in self.forward.record().items() if key != "threads"},
            "versions": {name: version for name, version in versions().items() if name in DECIDES},
            **runner_of(benchmark).identity(benchmark),
        }


def _visible(folder: Path) -> list[Path]:
    """Return the files below a folder, without hidden ones, in which tools of the hub note when they fetched it."""
    files = (file for file in folder.glob("**/*") if file.is_file())
    return [file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts)]


@functools.cache
def model_digest(folder: Path) -> str:
    """Return the XXH3-128 of weights, configs, tokenizer, processor and modules of a model."""
    kinds = (
        "*.safetensors",
        "*.bin",
        "*config.json",
        "tokenizer*",
        "special_tokens_map.json",
        "vocab*",
        "merges.txt",
        "*.jinja",
        "chat_template*",
        "modules.json",
        "config_sentence_transformers.json",
        "[0-9]*_*/*",  # modules of sentence-transformers
    )
    return digest_files({file for kind in kinds for file in folder.glob(kind) if file.is_file()})


def score(
    scoring: Scoring, checkpoints: Sequence[Path], benchmarks: Sequence[Benchmark], labels: Mapping[str, Any], output: Path
) -> None:
    """Write `output`, FILE.json, with the scores, and beside it every answer (.npz) and every output (.jsonl.gz).

    `checkpoints` are one for all benchmarks, or one for each; `labels` are `suite`, `method` and `seed` of the scores. Raises
    UserError for models, tasks and data that cannot be read or do not fit each other.
    """
    scores: list[dict[str, Any]] = []
    predictions: dict[str, Any] = {}
    batch_sizes: dict[str, int] = {}

    @functools.lru_cache(maxsize=1)
    def load(runner: Runner, folder: Path, pictures: bool) -> Any:
        return runner.load_model(folder, scoring.device, scoring.precision, scoring.settings, pictures)

    models = [*checkpoints] * (len(benchmarks) if len(checkpoints) == 1 else 1)
    with (
        tempfile.TemporaryDirectory() as scratch,
        atomic_write(output.with_suffix(".jsonl.gz")) as part,
        gzip.GzipFile(part, "wb", mtime=0) as lines,
    ):
        for checkpoint, benchmark in zip(models, benchmarks, strict=True):
            task, runner = benchmark.id, runner_of(benchmark)
            loaded = functools.partial(load, runner, checkpoint)
            tasks = runner.load_tasks(benchmark, Path(scratch))
            samples = _samples(scoring, checkpoint, benchmark, tasks, loaded, f"{labels['method']}, {task}", batch_sizes)
            found = answers(samples, of_benchmark(benchmark.harness))
            lines.writelines(f"{canonical({'benchmark': task, **each})}\n".encode() for of in samples.values() for each in of)
            first, *others = found.scores()
            others += runner.more_scores(benchmark, [sample for of in samples.values() for sample in of])
            scores += [{**labels, "task": task, "n": len(found.label), **each} for each in (first, *others)]
            predictions |= {f"{task}.prediction": found.prediction, f"{task}.label": found.label}
            predictions |= {f"{task}.cluster": found.cluster} if found.cluster.any() else {}
            _say(f"{labels['method']}, {task}: {first['metric']} {first['value']:.4f} of {len(found.label)} examples")
    with atomic_write(output.with_suffix(".npz")) as part, open(part, "wb") as stream:
        np.savez(stream, **predictions)
    write_json(output, {"scores": scores, "provenance": _provenance(scoring, checkpoints, benchmarks, batch_sizes)})


def _samples(
    scoring: Scoring,
    checkpoint: Path,
    benchmark: Benchmark,
    tasks: Mapping[str, Any],
    load: Callable[[bool], Any],
    name: str,
    batch_sizes: dict[str, int],
) -> dict[str, list[Sample]]:
    """Return the samples of a benchmark by harness task; the model answers those that the cache does not have."""
    identity, runner = scoring.identity(checkpoint, benchmark), runner_of(benchmark)
    found: dict[str, list[Sample]] = {}

    def ask(task: Any) -> tuple[list[Sample], int]:
        pictures = bool(getattr(task, "MULTIMODAL", False))
        return halved_until_it_fits(
            lambda size: runner.run_task(load(pictures), task, benchmark, scoring.settings, size), scoring.batch_size, _say
        )

    for each, task in tasks.items():
        found[each], batch_sizes[each] = kept(scoring.cache, {**identity, "task": each}, functools.partial(ask, task))
        _say(f"{name}: {len(found)} of {len(tasks)} harness tasks, {each}")
    return found


def _say(text: str) -> None:
    print(text, flush=True)


def _provenance(
    scoring: Scoring, checkpoints: Sequence[Path], benchmarks: Sequence[Benchmark], batch_sizes: Mapping[str, int]
) -> dict[str, Any]:
    """Say how it was computed and from what; `smaller_batches` are those of harness tasks for which memory ran out."""
    return {
        **scoring.forward.record(),
        "backend": scoring.settings.get("backend", "hf"),
        "batch_size": scoring.batch_size,
        "smaller_batches": {name: size for name, size in batch_sizes.items() if size != scoring.batch_size},
        "benchmarks": [{"id": benchmark.id, **benchmark.harness} for benchmark in benchmarks],
        "settings": scoring.settings,
        "checkpoints": [str(folder) for folder in checkpoints],
        "xxh3_128": {str(folder): model_digest(folder) for folder in checkpoints},
        "versions": versions(),
    }
