"""Fine-tune one model from the base on all tasks: traditional multi-task learning, an upper reference (rule finetune_joint)."""

from nan_merge.checkpoints.checkpoint import write_checkpoint
from nan_merge.core.command_line import command_line
from nan_merge.core.progress import steps
from nan_merge.data.dataset import Dataset
from nan_merge.models.classification import Forward
from nan_merge.models.heads import Head
from nan_merge.models.registry import find_family
from nan_merge.models.training import Task, finetune_joint
from scripts.arguments import options, parse_with_spec


def main() -> None:
    """Parse the command line and train."""
    args = parse_with_spec(
        options(__doc__, "family", "base", "datasets", "heads", "seed", "device", "output"),
        settings="`finetune:` of the suite; steps are of one task",
    )
    forward = Forward(args.device)
    tasks = []
    for folder, head in zip(args.datasets, args.heads, strict=True):
        data, scale = Dataset(folder), args.settings["logit_scale"]
        tasks.append(Task(data.inputs("train"), data.labels("train"), Head.read(head), scale))
    module, start = find_family(args.family), args.settings.pop("initialisation", None)
    encoder = module.load(args.base)
    if start is not None:  # a network of random weights of its own
        module.initialise(encoder, [args.seed, start])
    forward.place(encoder)
    show = steps(f"finetune {args.output.name}", len(tasks) * args.settings["steps"])
    finetune_joint(encoder, tasks, args.settings, args.seed, show)
    tensors = {name: tensor.detach().contiguous().cpu().numpy() for name, tensor in encoder.state_dict().items()}
    write_checkpoint(args.output, tensors, copy_from=args.base)


if __name__ == "__main__":
    command_line(main)
