"""Fetch one asset: download, verify against the lock, keep its named files (rule fetch_asset)."""

import argparse
import json
from pathlib import Path

from nan_merge.assets.fetch import fetch
from nan_merge.core.command_line import command_line
from nan_merge.core.errors import UserError


def main() -> None:
    """Parse the command line and fetch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--asset", required=True)
    parser.add_argument("--spec", type=json.loads, required=True, help="its entry of config/assets.yaml as JSON")
    parser.add_argument("--lock", type=json.loads, required=True, help="its entry of config/assets.lock.json as JSON")
    parser.add_argument("--store", type=Path, default=Path("results/downloads"), help="folder of resumed and kept downloads")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    try:
        fetch(args.asset, args.spec, args.lock, args.output, args.store)
    except UserError as error:
        kept = sorted(p.parent.name for p in args.output.parent.glob("*/asset.json"))
        raise UserError(
            f"{error}\nmissing: {args.asset}. Already fetched and kept: {', '.join(kept) or 'nothing'}; run"
            " again to fetch only the missing ones"
        ) from None


if __name__ == "__main__":
    command_line(main)
