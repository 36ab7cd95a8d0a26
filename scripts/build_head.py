"""Turn the class prompts of one task into its frozen head (rule build_head)."""

from nan_merge.checkpoints.checkpoint import write_tensors
from nan_merge.core.atomic import atomic_write
from nan_merge.core.command_line import command_line
from nan_merge.models.registry import find_family
from scripts.arguments import options, parse_with_spec


def main() -> None:
    """Parse the command line and build."""
    args = parse_with_spec(
        options(__doc__, "family", "text-tower", "output"), classes="names of the classes", templates="prompts with {} for a name"
    )
    head = find_family(args.family, "head").head(args.classes, args.templates, args.text_tower)
    with atomic_write(args.output) as part:
        write_tensors(part, {"head": head})


if __name__ == "__main__":
    command_line(main)
