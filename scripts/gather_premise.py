"""Gather the runs of the premise experiment into one tidy table (rule gather_premise)."""

from pathlib import Path

from nan_merge.core.command_line import command_line
from nan_merge.core.files import read_json, write_table
from scripts.arguments import options

COLUMNS = ["suite", "task", "protocol", "examples", "steps", "norm_weights", "norm_task_vector", "accuracy", "seed"]


def main() -> None:
    """Parse the command line and gather."""
    parser = options(__doc__, "output")
    parser.add_argument("--runs", type=Path, nargs="+", required=True)
    args = parser.parse_args()
    rows = [read_json(file) for file in args.runs]
    rows.sort(key=lambda row: (row["protocol"], row["examples"], row["seed"]))
    write_table(args.output, rows, COLUMNS)


if __name__ == "__main__":
    command_line(main)
