"""Measure squared norms of weights and task vectors, tensor by tensor (rule measure_weights)."""

from nan_merge.core.command_line import command_line, parse_named_folders
from nan_merge.core.files import write_json
from nan_merge.engine.measure import norms
from nan_merge.layouts.unify import unify_layout
from scripts.arguments import LAYOUT, options, parse_with_spec


def main() -> None:
    """Parse the command line and measure."""
    args = parse_with_spec(options(__doc__, "base", "experts", "threads", "output"), layout=LAYOUT)
    models = unify_layout(args.base, parse_named_folders(args.experts), **args.layout)
    write_json(args.output, norms(models, threads=args.threads))


if __name__ == "__main__":
    command_line(main)
