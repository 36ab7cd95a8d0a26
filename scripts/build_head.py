"""Turn the class prompts of one task into its frozen head (rule build_head)."""

import argparse
from pathlib import Path

from merging.checkpoints import write_tensors
from merging.classification import build_head
from merging.data import Dataset
from merging.evaluate import text_encoder
from merging.prompts import embed_prompts
from merging.provenance import publish
from merging.results import command_line


def main() -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--text-tower", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    prompts = Dataset(args.dataset).record["prompts"]
    embeddings = embed_prompts(prompts, text_encoder.load(args.text_tower), args.text_tower)
    with publish(args.output) as part:
        write_tensors(part, {"head": build_head(embeddings)})


if __name__ == "__main__":
    command_line(main)
