"""Write the test examples of a suite as a page shows them: texts as far as models read them, or images (rule decode_examples)."""

from pathlib import Path

from nan_merge.core.command_line import command_line
from nan_merge.core.files import write_json
from nan_merge.data.dataset import Dataset
from nan_merge.data.texts import decode
from nan_merge.data.thumbnails import thumbnails
from scripts.arguments import options


def main() -> None:
    """Parse the command line and write."""
    parser = options(__doc__, "suite", "datasets", "output")
    parser.add_argument("--tokenizer", type=Path, metavar="FOLDER", help="with tokenizer.json, for texts; without it, images")
    args = parser.parse_args()
    inputs = {folder.name: Dataset(folder).inputs("test") for folder in args.datasets}
    if args.tokenizer:
        found = {"texts": {task: decode(rows, args.tokenizer / "tokenizer.json") for task, rows in inputs.items()}}
    else:
        found = {"images": {task: thumbnails(pixels) for task, pixels in inputs.items()}}
    write_json(args.output, {"suite": args.suite, **found})


if __name__ == "__main__":
    command_line(main)
