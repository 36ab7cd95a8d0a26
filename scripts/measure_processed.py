"""Measure squared norms of task vectors as the preprocess of a method leaves them (rule measure_processed)."""

from nan_merge.core.command_line import command_line, parse_named_folders
from nan_merge.core.files import read_json, write_json
from nan_merge.engine.processed import processed
from nan_merge.engine.request import Contexts
from nan_merge.layouts.unify import unify_layout
from scripts.arguments import LAYOUT, options, parse_with_spec


def main() -> None:
    """Parse the command line and measure."""
    parser = options(__doc__, "base", "experts", "thresholds", "seed", "threads", "output")
    args = parse_with_spec(parser, processed="`preprocess`, an operator with hyper-parameters, and `space`", layout=LAYOUT)
    models = unify_layout(args.base, parse_named_folders(args.experts), **args.layout)
    cuts = read_json(args.thresholds)["thresholds"] if args.thresholds else {}
    measured = processed(Contexts(models, cuts, args.seed), **args.processed, threads=args.threads)
    write_json(args.output, {**args.processed, "seed": args.seed, **measured})


if __name__ == "__main__":
    command_line(main)
