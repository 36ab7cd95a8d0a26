"""Turn the class prompts of one task into its frozen head (rule build_head)."""

import argparse
import json
from pathlib import Path

from merging.checkpoints import write_tensors
from merging.evaluate import family
from merging.provenance import publish
from merging.results import command_line


def main() -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", required=True)
    parser.add_argument("--prompts", type=json.loads, required=True, help="`classes` and `templates` as JSON")
    parser.add_argument("--text-tower", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    head = family(args.family).head(args.prompts["classes"], args.prompts["templates"], args.text_tower)
    with publish(args.output) as part:
        write_tensors(part, {"head": head})


if __name__ == "__main__":
    command_line(main)
