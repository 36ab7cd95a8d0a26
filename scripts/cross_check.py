"""Score a language model by OpenCompass, beside lm_eval: one score a benchmark (rule cross_check)."""

import argparse
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from nan_merge.core.command_line import command_line
from nan_merge.core.errors import UserError
from nan_merge.core.files import write_json
from nan_merge.core.scoring import BENCHMARK_BATCH
from nan_merge.models.opencompass import COUNTERPARTS, config_text, read_summary, write_data
from scripts.arguments import options, parse_with_spec

OFFLINE = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE", "TRANSFORMERS_OFFLINE"), "1")


def main() -> None:
    """Parse the command line and score the model on one benchmark after the other."""
    args = parse_with_spec(arguments(), benchmarks="task of lm_eval by benchmark", gpus="number of GPUs of a model")
    if not find_spec("opencompass"):
        raise UserError("OpenCompass is not installed here; run with `--sdm conda`, which makes envs/opencompass.yaml")
    models = args.checkpoints * (len(args.benchmarks) if len(args.checkpoints) == 1 else 1)
    scores = []
    for (benchmark, task), model, data in zip(args.benchmarks.items(), models, args.data, strict=True):
        value, count = scored(task, model, data, args)
        labels = {"suite": args.suite, "method": args.method, "seed": args.seed, "task": benchmark}
        scores.append({**labels, "metric": "opencompass", "value": value, "stderr": None, "n": count})
    write_json(args.scores, {"scores": scores})


def scored(task: str, model: Path, data: Path, args: argparse.Namespace) -> tuple[float, int]:
    """Return score and number of examples of a model on the benchmark that lm_eval calls `task`; UserError if it fails."""
    found = COUNTERPARTS[task]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        count = write_data(found, data, work)
        (work / "config.py").write_text(config_text(found, model.resolve(), args.precision, args.batch_size, args.gpus))
        command = [sys.executable, "-m", "opencompass.cli.main", "config.py", "--work-dir", "runs", "--debug"]
        environment = {**os.environ, **OFFLINE, "COMPASS_DATA_CACHE": folder}
        ended = subprocess.run(command, cwd=work, env=environment, check=False).returncode
        summaries = list(work.glob("runs/*/summary/summary_*.csv"))
        if ended or len(summaries) != 1:
            raise UserError(f"{model}: OpenCompass ended with {ended} and {len(summaries)} summaries; the log above says why")
        return read_summary(summaries[0].read_text(encoding="utf-8"), found.name), count


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = options(__doc__, "checkpoints", "data", "device", "precision", "suite", "method", "seed", "scores")
    parser.add_argument("--batch-size", type=int, default=BENCHMARK_BATCH)
    return parser


if __name__ == "__main__":
    command_line(main)
