"""Fine-tune one expert from a language model on the training splits of benchmarks (rule finetune_language)."""

import tempfile
from pathlib import Path

from nan_merge.checkpoints.checkpoint import Checkpoint, write_checkpoint
from nan_merge.core.command_line import command_line
from nan_merge.core.progress import steps
from nan_merge.models.classification import Forward
from nan_merge.models.harness.tasks import benchmarks_of, training_pairs
from nan_merge.models.language_training import finetune
from nan_merge.models.registry import find_family
from scripts.arguments import options, parse_with_spec


def main() -> None:
    """Parse the command line and train."""
    args = parse_with_spec(
        options(__doc__, "family", "base", "data", "seed", "device", "output"),
        benchmarks="entries `harness:` of tasks, each with its `id`",
        settings="`finetune:` of the suite without `tasks`",
    )
    with tempfile.TemporaryDirectory() as scratch:
        tasks = [training_pairs(benchmark, Path(scratch)) for benchmark in benchmarks_of(args.benchmarks, args.data)]
    model, tokenizer = find_family(args.family).load(args.base)
    Forward(args.device).place(model)
    finetune(model, tokenizer, tasks, args.settings, args.seed, steps(f"finetune {args.output.name}", args.settings["steps"]))
    tensors = model.state_dict()  # with names for shared tensors that the base's file has once
    kept = {name: tensors[name].detach().contiguous().cpu().numpy() for name in Checkpoint(args.base).names}
    write_checkpoint(args.output, kept, copy_from=args.base)


if __name__ == "__main__":
    command_line(main)
