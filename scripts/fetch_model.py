"""Put one model of the user where the rules find it (rule fetch_model): linked from the hub's cache, or from a local folder."""

import shutil
from pathlib import Path

from nan_merge.core.atomic import atomic_write
from nan_merge.core.command_line import command_line
from nan_merge.core.files import write_json
from nan_merge.standalone.sources import Source, find
from scripts.arguments import options


def main() -> None:
    """Parse the command line and fetch."""
    parser = options(__doc__, "output")
    parser.add_argument("--model", required=True, help="hub id as owner/name[@revision], or a folder")
    args = parser.parse_args()
    source = find(args.model)
    print(f"{args.model}: {source.pinned}")
    with atomic_write(args.output) as part:
        link(source, part)
        write_json(part / "source.json", {"given": source.given, "repo": source.repo, "commit": source.commit})


def link(source: Source, part: Path) -> None:
    """Make a folder with the files of a model: links into the hub's cache, or the same files (hard links) of a local folder."""
    part.mkdir()
    for file in sorted(source.folder.iterdir() if source.repo else source.folder.rglob("*")):
        target = part / file.relative_to(source.folder)
        if source.repo or file.is_symlink():
            target.symlink_to(file.resolve())
        elif file.is_dir():
            target.mkdir()
        else:
            _same_file(file, target)


def _same_file(file: Path, target: Path) -> None:
    """Link a file, or copy it where the file system or its owner allows no link."""
    try:
        target.hardlink_to(file)
    except OSError:
        shutil.copy2(file, target)


if __name__ == "__main__":
    command_line(main)
