"""Take the head of a fetched classifier, which stays that of its task under every merge (rule extract_head)."""

from pathlib import Path

from nan_merge.checkpoints.checkpoint import write_tensors
from nan_merge.core.atomic import atomic_write
from nan_merge.core.command_line import command_line
from nan_merge.models.registry import find_family
from scripts.arguments import options


def main() -> None:
    """Parse the command line and extract."""
    parser = options(__doc__, "family", "output")
    parser.add_argument("--source", type=Path, required=True, help="the classifier, as it was fetched")
    args = parser.parse_args()
    head = find_family(args.family, "extract_head").extract_head(args.source)
    with atomic_write(args.output) as part:
        write_tensors(part, head)


if __name__ == "__main__":
    command_line(main)
