"""Decode, split and encode one data set once, into memory-mapped arrays (rule prepare_dataset)."""

import importlib
import inspect
from pathlib import Path

from nan_merge.core.command_line import command_line
from nan_merge.data.dataset import write_dataset
from scripts.arguments import options, parse_with_spec


def main() -> None:
    """Parse the command line and prepare."""
    parser = options(__doc__, "output")
    parser.add_argument("--assets", type=Path, nargs="+", required=True)
    parser.add_argument("--processes", type=int, help="that decode images at once; all processors by default")
    args = parse_with_spec(parser, task="entry of config/tasks.yaml, with its id", input="`input:` of the suite, with `corrupt:`")
    module = importlib.import_module(f"nan_merge.data.{args.task['reader'].split('.')[0]}")
    known = inspect.signature(module.prepare).parameters  # long readers keep half-done work beside the output
    how = {key: value for key, value in {"output": args.output, "processes": args.processes}.items() if key in known}
    record, splits = module.prepare(args.task, {folder.name: folder for folder in args.assets}, args.input, **how)
    if "corrupt" in args.input:
        record["corrupt"] = args.input["corrupt"]
    write_dataset(args.output, record, splits)
    sizes = ", ".join(f"{len(labels)} {split}" for split, (_, labels) in splits.items())
    print(f"prepared {args.task['id']}: {sizes}, {len(record['classes'])} classes")


if __name__ == "__main__":
    command_line(main)
