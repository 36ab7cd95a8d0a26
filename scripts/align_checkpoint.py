"""Align an image encoder with the text tower: the pretrained base of an image suite (rule align_checkpoint)."""

from pathlib import Path

import numpy as np

from nan_merge.checkpoints.checkpoint import write_checkpoint
from nan_merge.core.command_line import command_line
from nan_merge.core.files import read_json
from nan_merge.core.progress import steps
from nan_merge.data.dataset import Dataset
from nan_merge.models.alignment import Pairs, align_text_image
from nan_merge.models.families import text_encoder
from nan_merge.models.prompts import embed_prompts, fill_templates
from nan_merge.models.registry import find_family
from scripts.arguments import options, parse_with_spec

SEED = 0  # all experts of all seeds start from one base


def main() -> None:
    """Parse the command line and align."""
    parser = options(__doc__, "family", "output")
    parser.add_argument("--prepared", type=Path, required=True, help="the image encoder before")
    parser.add_argument("--text-tower", type=Path, required=True, help="never trained")
    parser.add_argument("--datasets", type=Path, nargs="+", required=True, help="data sets with a split `alignment`")
    parser.add_argument("--captions", type=Path, help="data set in which every picture is a class; without it, the tasks alone")
    args = parse_with_spec(parser, prompts="classes and templates, by task", settings="`alignment:` of the suite")
    encoder, tower = find_family(args.family).load(args.prepared), text_encoder.load(args.text_tower)

    def embedded(prompts: list[str]) -> np.ndarray:
        return embed_prompts(prompts, tower, args.text_tower)

    tasks = [pairs(Dataset(f), "alignment", embedded(fill_templates(**args.prompts[f.name], most=1))) for f in args.datasets]
    if args.captions:
        data = Dataset(args.captions)
        templates = args.prompts[data.folder.name]["templates"]
        captions = pairs(data, "train", embedded(fill_templates(data.record["classes"], templates, 1)))
    else:
        captions = together(tasks)
    settings = {key: value for key, value in args.settings.items() if key != "captions"}
    losses = align_text_image(encoder, tasks, captions, settings, SEED, steps("align", settings.get("steps", 0)))
    tensors = {name: tensor.contiguous().numpy() for name, tensor in encoder.state_dict().items()}
    write_checkpoint(args.output, tensors, read_json(args.prepared / "config.json"))
    print(f"aligned: loss {np.mean(losses[:10]):.3f} at first, {np.mean(losses[-10:]):.3f} after {len(losses)} steps")


def together(tasks: list[Pairs]) -> Pairs:
    """Put the pairs of all tasks into one."""
    return Pairs(np.concatenate([task.images for task in tasks]), np.concatenate([task.texts for task in tasks]))


def pairs(data: Dataset, split: str, texts: np.ndarray) -> Pairs:
    """Pair the images of a split with the embeddings of their classes (C, d)."""
    return Pairs(np.asarray(data.inputs(split)), texts[data.labels(split)])


if __name__ == "__main__":
    command_line(main)
