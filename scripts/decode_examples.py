"""Write the texts of the test examples of a suite, as far as its models read them (rule decode_examples)."""

from pathlib import Path

from nan_merge.core.command_line import command_line
from nan_merge.core.files import write_json
from nan_merge.data.dataset import Dataset
from nan_merge.data.texts import decode
from scripts.arguments import options


def main() -> None:
    """Parse the command line and write."""
    parser = options(__doc__, "suite", "datasets", "output")
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="FOLDER", help="with tokenizer.json")
    args = parser.parse_args()
    texts = {folder.name: decode(Dataset(folder).inputs("test"), args.tokenizer / "tokenizer.json") for folder in args.datasets}
    write_json(args.output, {"suite": args.suite, "texts": texts})


if __name__ == "__main__":
    command_line(main)
