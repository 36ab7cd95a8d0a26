"""Turn the class prompts of one task into its frozen head (rule build_head)."""

import argparse
from pathlib import Path

from merging.checkpoints import write_tensors
from merging.classification import build_head, embed
from merging.data import Dataset
from merging.data.texts import tokenise
from merging.evaluate import text_encoder
from merging.provenance import publish
from merging.results import command_line

LENGTH = 64  # tokens; longer than any prompt


def main() -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--text-tower", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    tokens = tokenise(Dataset(args.dataset).record["prompts"], args.text_tower / "tokenizer.json", LENGTH)
    embeddings = embed(text_encoder.load(args.text_tower), tokens, text_encoder.batches(tokens, 64))
    with publish(args.output) as part:
        write_tensors(part, {"head": build_head(embeddings)})


if __name__ == "__main__":
    command_line(main)
