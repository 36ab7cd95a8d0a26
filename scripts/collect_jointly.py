"""Collect calibration of all experts at once: Gram matrices behind merged layers, matched units (rule collect_jointly)."""

from pathlib import Path

from nan_merge.calibration.kinds import KINDS_TOGETHER, bound
from nan_merge.calibration.records import write_calibration
from nan_merge.core.command_line import command_line, parse_named_folders
from nan_merge.core.progress import bar
from nan_merge.data.dataset import Dataset
from nan_merge.layouts.unify import unify_layout
from nan_merge.models.classification import Forward
from nan_merge.models.registry import find_family
from scripts.arguments import LAYOUT, options, parse_with_spec


def main() -> None:
    """Parse the command line and collect."""
    parser = options(__doc__, "family", "base", "experts", "device")
    parser.add_argument("--kind", choices=sorted(KINDS_TOGETHER), required=True)
    parser.add_argument("--datasets", nargs="+", required=True, metavar="NAME=FOLDER", help="of each expert's task")
    parser.add_argument("--output", type=Path, required=True, help="gets a folder for each expert")
    args = parse_with_spec(parser, settings="entry of config/calibration.yaml, without its kind", layout=LAYOUT)
    forward = Forward(args.device)
    models = unify_layout(args.base, parse_named_folders(args.experts), **args.layout)
    inputs = {name: Dataset(folder).inputs("train") for name, folder in parse_named_folders(args.datasets).items()}
    collect = bound(KINDS_TOGETHER[args.kind], args.settings, f"config/calibration.yaml: kind: {args.kind}")
    encoder = find_family(args.family).load(args.base)
    forward.place(encoder)
    with bar(args.kind, 0) as shown:
        statistics = collect(encoder, models, inputs, shown.update)
    for expert, tensors in statistics.items():
        examples = min(collect.keywords["examples"], len(inputs[expert]))
        record = {"kind": args.kind, "settings": collect.keywords, "examples": examples}
        write_calibration(args.output / expert, tensors, record | forward.elsewhere())


if __name__ == "__main__":
    command_line(main)
