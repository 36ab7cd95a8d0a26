"""Collect calibration of one expert on the training split of its task: Fisher or Gram (rule collect_calibration)."""

from nan_merge.calibration.kinds import KINDS, bound
from nan_merge.calibration.records import leave_out, write_calibration
from nan_merge.core.command_line import command_line
from nan_merge.core.progress import bar
from nan_merge.data.dataset import Dataset
from nan_merge.models.classification import Forward
from nan_merge.models.heads import Head
from nan_merge.models.registry import find_family
from nan_merge.models.training import Task
from scripts.arguments import LAYOUT, options, parse_with_spec


def main() -> None:
    """Parse the command line and collect."""
    parser = options(__doc__, "family", "checkpoint", "dataset", "head", "logit-scale", "device", "output")
    parser.add_argument("--kind", choices=sorted(KINDS), required=True)
    args = parse_with_spec(parser, settings="entry of config/calibration.yaml, without its kind", layout=LAYOUT)
    forward, data, encoder = Forward(args.device), Dataset(args.dataset), find_family(args.family).load(args.checkpoint)
    forward.place(encoder)
    task = Task(data.inputs("train"), data.labels("train"), Head.read(args.head), args.logit_scale)
    leave_out(encoder, args.layout.get("exclude", []))
    collect = bound(KINDS[args.kind], args.settings, f"config/calibration.yaml: kind: {args.kind}")
    examples = min(collect.keywords["examples"], len(task.labels))
    with bar(f"{args.kind} {args.output.name}", examples) as shown:
        tensors = collect(encoder, task, shown.update)
    record = {"kind": args.kind, "settings": collect.keywords, "logit_scale": args.logit_scale, "examples": examples}
    write_calibration(args.output, tensors, record | forward.elsewhere())


if __name__ == "__main__":
    command_line(main)
