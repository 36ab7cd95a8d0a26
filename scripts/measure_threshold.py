"""Measure the exact magnitude at which trimming to one density cuts each expert (rule measure_threshold)."""

from nan_merge.core.command_line import command_line, parse_named_folders
from nan_merge.core.files import write_json
from nan_merge.engine.measure import thresholds
from nan_merge.layouts.unify import unify_layout
from scripts.arguments import LAYOUT, options, parse_with_spec


def main() -> None:
    """Parse the command line and measure."""
    args = parse_with_spec(
        options(__doc__, "base", "experts", "threads", "output"), settings="hyper-parameters of the operator", layout=LAYOUT
    )
    models = unify_layout(args.base, parse_named_folders(args.experts), **args.layout)
    write_json(args.output, {**args.settings, "thresholds": thresholds(models, **args.settings, threads=args.threads)})


if __name__ == "__main__":
    command_line(main)
