"""Decode, split and encode one data set once, into memory-mapped arrays (rule prepare_dataset)."""

import argparse
import importlib
import json
from pathlib import Path

from merging.data import write_dataset
from merging.results import command_line


def main() -> None:
    """Parse the command line and prepare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", type=json.loads, required=True, help="its entry of config/tasks.yaml as JSON, with its id")
    parser.add_argument("--form", type=json.loads, required=True, help="`input:` of the suite as JSON")
    parser.add_argument("--assets", type=Path, nargs="+", required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    module = importlib.import_module(f"merging.data.{args.task['reader'].split('.')[0]}")
    record, splits = module.prepare(args.task, {folder.name: folder for folder in args.assets}, args.form)
    write_dataset(args.output, record, splits)
    sizes = ", ".join(f"{len(labels)} {split}" for split, (_, labels) in splits.items())
    print(f"prepared {args.task['id']}: {sizes}, {len(record['classes'])} classes")


if __name__ == "__main__":
    command_line(main)
