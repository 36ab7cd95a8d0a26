"""Measure squared norms of weights and task vectors, or exact trim thresholds (rules measure_weights, measure_threshold)."""

from pathlib import Path

from nan_merge.core.command_line import command_line, parse_named_folders
from nan_merge.core.files import read_json, write_json
from nan_merge.engine.measure import norms
from nan_merge.engine.spaces import thresholds
from nan_merge.layouts.unify import unify_layout
from scripts.arguments import LAYOUT, options, parse_with_spec

TRIM = "preprocess.trim."


def main() -> None:
    """Parse the command line and measure."""
    parser = options(__doc__, "base", "experts", "threads", "output")
    parser.add_argument("--selected", type=Path, help="choice or trial that has hyper-parameters of `trim`")
    args = parse_with_spec(parser, thresholds="hyper-parameters of `trim`, and the space; null for norms", layout=LAYOUT)
    models = unify_layout(args.base, parse_named_folders(args.experts), **args.layout)
    if (settings := args.thresholds) is None:
        measured = norms(models, threads=args.threads)
    else:
        point = read_json(args.selected)["point"] if args.selected else {}
        settings = settings | {path.rpartition(".")[2]: value for path, value in point.items() if path.startswith(TRIM)}
        measured = {**settings, "thresholds": thresholds(models, **settings, threads=args.threads)}
    write_json(args.output, measured)


if __name__ == "__main__":
    command_line(main)
