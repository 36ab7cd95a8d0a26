"""Measure squared norms of weights and task vectors, tensor by tensor (rule measure_weights)."""

import argparse
from pathlib import Path

from nan_merge.core.command_line import command_line, parse_named_folders
from nan_merge.core.files import write_json
from nan_merge.engine.measure import norms
from nan_merge.layouts.unify import unify_layout
from scripts.arguments import LAYOUT, parse_with_spec


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--experts", nargs="+", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, required=True)
    args = parse_with_spec(parser, layout=LAYOUT)
    models = unify_layout(args.base, parse_named_folders(args.experts), **args.layout)
    write_json(args.output, norms(models, threads=args.threads))


if __name__ == "__main__":
    command_line(main)
