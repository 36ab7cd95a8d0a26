"""Collect calibration of one expert on the training split of its task: Fisher or Gram (rule collect_calibration)."""

import argparse
from pathlib import Path

from nan_merge.calibration.kinds import KINDS, bound
from nan_merge.calibration.records import leave_out, write_calibration
from nan_merge.checkpoints.checkpoint import Checkpoint
from nan_merge.core.command_line import command_line
from nan_merge.core.progress import bar
from nan_merge.data.dataset import Dataset
from nan_merge.models.classification import Forward
from nan_merge.models.registry import find_family
from nan_merge.models.training import Task
from scripts.arguments import LAYOUT, parse_with_spec


def main() -> None:
    """Parse the command line and collect."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", required=True)
    parser.add_argument("--kind", choices=sorted(KINDS), required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--head", type=Path, required=True)
    parser.add_argument("--logit-scale", type=float, required=True, help="`finetune: logit_scale:` of the suite")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--output", type=Path, required=True)
    args = parse_with_spec(parser, settings="entry of config/calibration.yaml, without its kind", layout=LAYOUT)
    forward, data, encoder = Forward(args.device), Dataset(args.dataset), find_family(args.family).load(args.checkpoint)
    forward.place(encoder)
    task = Task(data.inputs("train"), data.labels("train"), Checkpoint(args.head).read("head"), args.logit_scale)
    leave_out(encoder, args.layout.get("exclude", []))
    collect = bound(KINDS[args.kind], args.settings, f"config/calibration.yaml: kind: {args.kind}")
    examples = min(collect.keywords["examples"], len(task.labels))
    with bar(f"{args.kind} {args.output.name}", examples) as shown:
        tensors = collect(encoder, task, shown.update)
    record = {"kind": args.kind, "settings": collect.keywords, "logit_scale": args.logit_scale, "examples": examples}
    write_calibration(args.output, tensors, record | forward.elsewhere())


if __name__ == "__main__":
    command_line(main)
