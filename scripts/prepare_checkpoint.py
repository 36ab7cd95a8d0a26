"""Bring a base model into the one form that everything later reads: safetensors and config.json (rule prepare_checkpoint)."""

import argparse
from pathlib import Path

from merging.evaluate import family
from merging.results import command_line


def main() -> None:
    """Parse the command line and convert."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", required=True)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    family(args.family).prepare(args.source, args.output)


if __name__ == "__main__":
    command_line(main)
