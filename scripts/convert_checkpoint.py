"""Convert a LLaVA in its original names to a folder that transformers loads and benchmarks score (rule convert_checkpoint)."""

import argparse
from pathlib import Path

from nan_merge.core.command_line import command_line
from nan_merge.models.families.vlm import LAYOUTS, assemble


def main() -> None:
    """Parse the command line and convert."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of the LLaVA")
    parser.add_argument("--pipeline", choices=list(LAYOUTS), required=True, help="how pictures are cut")
    parser.add_argument("--clip", type=Path, required=True, help="CLIP that gives the vision tower of models that have none")
    parser.add_argument("--donor", type=Path, default=None, help="LLaVA that gives vision tower or `image_newline`")
    parser.add_argument("--tower", choices=("clip", "donor"), required=True, help="which of the two gives the vision tower")
    parser.add_argument("--keep-tower", action="store_true", help="keep the tower of the model, if it has one")
    parser.add_argument("--processor", type=Path, required=True, help="folder with processor, tokenizer and chat template")
    parser.add_argument("--output", type=Path, required=True, help="folder of the converted model")
    args = parser.parse_args()
    given = {key: getattr(args, key) for key in ("clip", "processor", "donor", "tower")}
    for note in assemble(args.model, args.output, args.pipeline, keeps=args.keep_tower, **given):
        print(f"note: {note}")


if __name__ == "__main__":
    command_line(main)
