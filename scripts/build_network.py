"""Write the base of experts that are trained from random weights of their own (rule build_network)."""

from nan_merge.core.command_line import command_line
from nan_merge.models.registry import find_family
from scripts.arguments import options, parse_with_spec


def main() -> None:
    """Parse the command line and write."""
    args = parse_with_spec(options(__doc__, "family", "output"), network="`network:` of the suite")
    find_family(args.family, "build").build(args.network, args.output)


if __name__ == "__main__":
    command_line(main)
