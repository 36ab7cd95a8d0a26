"""Write the resolved config of the run as one YAML file (rule write_run_config)."""

import yaml

from nan_merge.core.atomic import atomic_write
from nan_merge.core.command_line import command_line
from nan_merge.core.files import read_json
from scripts.arguments import options


def main() -> None:
    """Parse the command line and write."""
    parser = options(__doc__, "output")
    parser.add_argument("--spec", type=read_json, required=True, metavar="FILE", help="the resolved config as JSON")
    args = parser.parse_args()
    with atomic_write(args.output) as part:
        part.write_text(yaml.safe_dump(args.spec, sort_keys=True, allow_unicode=True, width=110), encoding="utf-8")


if __name__ == "__main__":
    command_line(main)
