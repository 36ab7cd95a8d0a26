"""Look up commits, sizes and SHA-256 of assets and write them into config/assets.lock.json. Run by hand only."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiment import entries
from nan_merge.assets.fetch import differences, pin
from nan_merge.catalogue.files import known_names
from nan_merge.core.command_line import command_line
from nan_merge.core.errors import UserError
from nan_merge.core.files import read_json, write_json

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "config/assets.lock.json"


def main() -> None:
    """Lock the named assets, or all that are not locked; a failure does not stop the others."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("assets", nargs="*", help="asset ids; without any, all that are missing or unverified in the lock")
    parser.add_argument("--accept", action="store_true", help="lock the values found even where unverified values differ")
    args = parser.parse_args()
    specs, lock = entries.assets(ROOT / "config", ROOT / "workflow/schemas"), read_json(LOCK)
    assets = args.assets or [asset for asset in sorted(specs) if "unverified" in lock.get(asset, {"unverified": ""})]
    known_names("update_lock", assets, specs)
    failed = []
    for asset in assets:
        try:
            lock[asset] = renewed(asset, specs[asset], lock.get(asset, {}), args.accept)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            failed.append(asset)
            continue
        write_json(LOCK, {asset: lock[asset] for asset in sorted(lock) if asset in specs})
        print(f"{asset}: {summary(lock[asset])}", flush=True)
    if failed:
        raise UserError(f"locked {len(assets) - len(failed)} of {len(assets)} assets; not locked, see above: {', '.join(failed)}")


def renewed(asset: str, spec: Mapping[str, Any], old: Mapping[str, Any], accept: bool) -> dict[str, Any]:
    """Return the new entry of an asset; UserError if it contradicts unverified values and is not accepted."""
    entry = pin(asset, spec)
    changes = differences(entry, old)
    for change in changes:
        print(f"{asset}: CHANGED: {change}", file=sys.stderr)
    if changes and "unverified" in old and not accept:
        raise UserError(
            f"asset '{asset}': the values found are not those noted ({old['unverified']}); find out why, and if they"
            f" are right, run: python -m scripts.update_lock --accept {asset}"
        )
    return entry


def summary(entry: Mapping[str, Any]) -> str:
    """Describe an entry of the lock in one line."""
    if "files" not in entry:
        return f"{entry['name']}, {entry['size']:,} bytes, sha256 {entry['sha256']}"
    files = entry["files"].values()
    commit = f"commit {entry['commit']}, " if "commit" in entry else ""
    return f"{commit}{len(files)} files, {sum(file['size'] for file in files):,} bytes"


if __name__ == "__main__":
    command_line(main)
