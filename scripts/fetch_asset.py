"""Fetch one asset: download, verify against the lock, keep its named files (rule fetch_asset)."""

from pathlib import Path

from nan_merge.assets.fetch import fetch
from nan_merge.core.command_line import command_line
from nan_merge.core.errors import UserError
from scripts.arguments import options, parse_with_spec


def main() -> None:
    """Parse the command line and fetch."""
    parser = options(__doc__, "output")
    parser.add_argument("--asset", required=True)
    parser.add_argument("--store", type=Path, default=Path("results/downloads"), help="folder of resumed and kept downloads")
    args = parse_with_spec(parser, entry="of config/assets.yaml", lock="of config/assets.lock.json, by asset")
    try:
        fetch(args.asset, args.entry, args.lock, args.output, args.store)
    except UserError as error:
        kept = sorted(p.parent.name for p in args.output.parent.glob("*/asset.json"))
        raise UserError(
            f"{error}\nmissing: {args.asset}. Already fetched and kept: {', '.join(kept) or 'nothing'}; run"
            " again to fetch only the missing ones"
        ) from None


if __name__ == "__main__":
    command_line(main)
