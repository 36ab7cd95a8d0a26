"""Measure squared norms of weights and task vectors, or exact trim thresholds (rules measure_weights, measure_threshold)."""

from nan_merge.core.command_line import command_line, parse_named_folders
from nan_merge.core.files import write_json
from nan_merge.engine.measure import norms
from nan_merge.engine.spaces import thresholds
from nan_merge.layouts.unify import unify_layout
from scripts.arguments import LAYOUT, options, parse_with_spec


def main() -> None:
    """Parse the command line and measure."""
    parser = options(__doc__, "base", "experts", "threads", "output")
    args = parse_with_spec(parser, thresholds="hyper-parameters of `trim`, and the space; null for norms", layout=LAYOUT)
    models = unify_layout(args.base, parse_named_folders(args.experts), **args.layout)
    if (settings := args.thresholds) is None:
        measured = norms(models, threads=args.threads)
    else:
        measured = {**settings, "thresholds": thresholds(models, **settings, threads=args.threads)}
    write_json(args.output, measured)


if __name__ == "__main__":
    command_line(main)
