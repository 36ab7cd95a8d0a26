"""Align a prepared image encoder with a text tower and write the pre-trained base of an image suite."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from merging import alignment, classification
from merging.checkpoints import write_checkpoint
from merging.data import Dataset
from merging.data.texts import tokenise
from merging.evaluate import image_encoder, text_encoder
from merging.results import command_line, read_json

LENGTH = 32  # tokens of a prompt or caption
BATCH = 64


def main() -> None:
    """Read the command line, align, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prepared", type=Path, required=True, help="folder of the prepared image encoder")
    parser.add_argument("--text-tower", type=Path, required=True, help="folder of the text encoder, never trained")
    parser.add_argument("--datasets", nargs="+", required=True, metavar="TASK=FOLDER", help="with a split `alignment`")
    parser.add_argument("--captions", type=Path, required=True, help="data set of captioned pictures")
    parser.add_argument("--settings", type=json.loads, required=True, help="`alignment:` of the suite, as JSON")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()

    tower = text_encoder.load(arguments.text_tower)
    datasets = [Dataset(pair.partition("=")[2]) for pair in arguments.datasets]
    tasks = [pairs(data, "alignment", tower, arguments.text_tower) for data in datasets]
    captions = pairs(Dataset(arguments.captions), "train", tower, arguments.text_tower, arguments.settings["captions"])
    encoder = image_encoder.load(arguments.prepared)
    losses = alignment.align(encoder, tasks, captions, arguments.settings, arguments.seed)
    print(f"aligned: loss {np.mean(losses[:10]):.3f} -> {np.mean(losses[-10:]):.3f} in {len(losses)} steps")
    write_checkpoint(arguments.output, image_encoder.tensors(encoder), read_json(arguments.prepared / "config.json"))


def pairs(
    data: Dataset, split: str, tower: text_encoder.Encoder, folder: Path, most: int | None = None
) -> alignment.Pairs:
    """Return the first `most` images of a split, each with the embedding of its class prompt."""
    labels = data.labels(split)[:most]
    used, rows = np.unique(labels, return_inverse=True)
    tokens = tokenise([data.record["prompts"][k] for k in used], folder / "tokenizer.json", LENGTH)
    texts = classification.embed(tower, tokens, text_encoder.batches(tokens, BATCH))
    return alignment.Pairs(np.asarray(data.inputs(split)[:most]), texts[rows])


if __name__ == "__main__":
    command_line(main)
