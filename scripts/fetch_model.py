"""Fetch one model of the user from the hub into the cache of Hugging Face and link its files (rule fetch_model)."""

from nan_merge.core.atomic import atomic_write
from nan_merge.core.command_line import command_line
from nan_merge.core.files import write_json
from nan_merge.standalone.sources import find
from scripts.arguments import options


def main() -> None:
    """Parse the command line and fetch."""
    parser = options(__doc__, "output")
    parser.add_argument("--model", required=True, help="hub id as owner/name[@revision]")
    args = parser.parse_args()
    source = find(args.model)
    print(f"{args.model}: {source.pinned}")
    with atomic_write(args.output) as part:
        part.mkdir()
        for file in sorted(source.folder.iterdir()):
            (part / file.name).symlink_to(file.resolve())
        write_json(part / "source.json", {"given": source.given, "repo": source.repo, "commit": source.commit})


if __name__ == "__main__":
    command_line(main)
