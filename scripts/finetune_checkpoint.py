"""Fine-tune one expert from the base against its frozen head (rules finetune_checkpoint, finetune_premise)."""

from nan_merge.checkpoints.checkpoint import write_checkpoint
from nan_merge.core.command_line import command_line
from nan_merge.core.errors import UserError
from nan_merge.core.progress import steps
from nan_merge.data.dataset import Dataset
from nan_merge.models.classification import Forward
from nan_merge.models.heads import Head
from nan_merge.models.registry import find_family
from nan_merge.models.training import finetune
from scripts.arguments import options, parse_with_spec


def main() -> None:
    """Parse the command line and train."""
    args = parse_with_spec(
        options(__doc__, "family", "base", "dataset", "head", "seed", "device", "output"), settings="`finetune:` of the suite"
    )
    forward = Forward(args.device)
    data, module = Dataset(args.dataset), find_family(args.family)
    examples = args.settings.pop("examples", None)  # the first n of the training split: nested subsets
    inputs, labels = data.inputs("train")[:examples], data.labels("train")[:examples]
    if len(labels) < (examples or 0):
        found = f"expected {examples} training examples, found {len(labels)}"
        raise UserError(f"{args.dataset}: {found}; lower `sizes` of the suite, or raise its `splits: train:`")
    head = Head.read(args.head)
    start = args.settings.pop("initialisation", None)
    encoder = module.load(args.base)
    if start is not None:  # a network of random weights of its own
        module.initialise(encoder, [args.seed, start])
    forward.place(encoder)
    show = steps(f"finetune {args.output.name}", args.settings["steps"])
    finetune(encoder, inputs, labels, head, args.settings, args.seed, show)
    tensors = {name: tensor.detach().contiguous().cpu().numpy() for name, tensor in encoder.state_dict().items()}
    write_checkpoint(args.output, tensors, copy_from=args.base)


if __name__ == "__main__":
    command_line(main)
