"""Bring a base, or an expert of it, into the one form that everything later reads (rules prepare_checkpoint, prepare_expert)."""

from pathlib import Path

from nan_merge.core.command_line import command_line
from nan_merge.models.registry import find_family
from scripts.arguments import options


def main() -> None:
    """Parse the command line and convert."""
    parser = options(__doc__, "family", "output")
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--base", type=Path, help="of an expert: what it was fine-tuned from, prepared or as fetched")
    parser.add_argument("--max-relative-distance", type=float, help="of an expert: the greatest |tau| / |W_0| that is believed")
    parser.add_argument("--dequantise", action="store_true", help="of a base: unpack its GGUF file")
    args = parser.parse_args()
    if args.dequantise:
        find_family(args.family).dequantise(args.source, args.output)
        return
    settings = {} if args.max_relative_distance is None else {"max_relative_distance": args.max_relative_distance}
    find_family(args.family, "prepare").prepare(args.source, args.output, args.base, **settings)


if __name__ == "__main__":
    command_line(main)
