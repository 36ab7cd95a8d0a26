"""Fetch one model of the user from the hub; its files stay in the cache of the hub, linked from here (rule fetch_model)."""

import argparse
from pathlib import Path

from merging.hub import find
from merging.provenance import publish
from merging.results import command_line, write_json


def main() -> None:
    """Parse the command line and fetch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="hub id as owner/name[@revision]")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    source = find(args.model)
    print(f"{args.model}: {source.pinned}")
    with publish(args.output) as part:
        part.mkdir()
        for file in sorted(source.folder.iterdir()):
            (part / file.name).symlink_to(file.resolve())
        write_json(part / "source.json", {"given": source.given, "repo": source.repo, "commit": source.commit})


if __name__ == "__main__":
    command_line(main)
