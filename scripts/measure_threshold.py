"""Measure the exact magnitude at which trimming to one density cuts each expert (rule measure_threshold)."""

import argparse
from pathlib import Path

from nan_merge.core.command_line import command_line, parse_named_folders
from nan_merge.core.files import write_json
from nan_merge.engine.measure import thresholds
from nan_merge.layouts.unify import unify_layout
from scripts.arguments import LAYOUT, parse_with_spec


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--experts", nargs="+", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, required=True)
    args = parse_with_spec(parser, settings="hyper-parameters of the operator", layout=LAYOUT)
    models = unify_layout(args.base, parse_named_folders(args.experts), **args.layout)
    write_json(args.output, {**args.settings, "thresholds": thresholds(models, **args.settings, threads=args.threads)})


if __name__ == "__main__":
    command_line(main)
