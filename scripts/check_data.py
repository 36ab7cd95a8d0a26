"""Check one prepared data set for duplicates and balance, and score simple baselines on it (rule check_data)."""

from nan_merge.core.command_line import command_line
from nan_merge.core.files import write_json
from nan_merge.data.dataset import Dataset
from nan_merge.data.inspection import inspect
from scripts.arguments import options


def main() -> None:
    """Parse the command line and check."""
    parser = options(__doc__, "dataset", "output")
    parser.add_argument("--unique", action="store_true", help="an example in two splits is an error")
    args = parser.parse_args()
    write_json(args.output, inspect(Dataset(args.dataset), args.unique))


if __name__ == "__main__":
    command_line(main)
