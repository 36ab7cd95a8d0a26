"""Look up commits, sizes and SHA-256 of assets and write them into config/assets.lock.json. Run by hand only."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiment import entries
from experiment.experiment import Experiment
from experiment.parts import ConfigParts
from nan_merge.assets.fetch import differences, pin
from nan_merge.assets.retry import Offline
from nan_merge.catalogue.files import known_names
from nan_merge.catalogue.methods import REFERENCES
from nan_merge.cli.parser import command_parser
from nan_merge.core.command_line import command_line
from nan_merge.core.errors import UserError, tell
from nan_merge.core.files import read_json, write_json
from nan_merge.layouts.names import join_first

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "config/assets.lock.json"


def main() -> None:
    """Lock the assets that the command line names; a failure does not stop the others. Exit code 2 if it names none."""
    parser = command_parser("lock", __doc__, "nan-merge lock --suite vit_b32_8")
    add, several = parser.add_argument, {"nargs": "+", "default": []}
    add("assets", nargs="*", default=[], metavar="ASSET", help="ids of config/assets.yaml; looked up again if locked")
    add("--suite", **several, metavar="NAME", help="what these suites fetch and the lock lacks")
    add("--configfile", **several, type=Path, metavar="FILE", help="what the suites of overlays of config.yaml lack")
    add("--all", action="store_true", default=False, help="all that the lock lacks: requests for hundreds of GB")
    add("--accept", action="store_true", default=False, help="lock values that differ from unverified ones")
    args = parser.parse_args()
    specs, lock = entries.assets(ROOT / "config", ROOT / "workflow/schemas"), read_json(LOCK)
    known_names("nan-merge lock", args.assets, specs, "config/assets.yaml has all")
    if not (args.assets or args.suite or args.configfile or args.all):
        missing = entries.unlocked(specs, lock)
        print(f"{len(missing)} of {len(specs)} assets of config/assets.yaml are not locked: {join_first(missing)}")
        parser.error("name what to lock: ids of assets, --suite NAME, --configfile FILE, or --all for all of them")
    wanted = {*(specs if args.all else ()), *_assets_of(args.suite, args.configfile)}
    assets = list(dict.fromkeys([*args.assets, *entries.unlocked(wanted, lock)]))
    if not assets:
        print(f"all {len(wanted)} assets are locked already")
    failed = []
    for asset in assets:
        try:
            lock[asset] = renewed(asset, specs[asset], lock.get(asset, {}), args.accept)
        except Offline as error:
            raise UserError(f"locked {assets.index(asset) - len(failed)} of {len(assets)} assets; {error}") from None
        except UserError as error:
            tell(f"error: {error}")
            failed.append(asset)
            continue
        write_json(LOCK, {asset: lock[asset] for asset in sorted(lock) if asset in specs})
        print(f"{asset}: {summary(lock[asset])}", flush=True)
    if failed:
        raise UserError(f"locked {len(assets) - len(failed)} of {len(assets)} assets; not locked, see above: {', '.join(failed)}")


def _assets_of(suites: Sequence[str], overlays: Sequence[Path]) -> list[str]:
    """Return the assets of the named suites, and of the suites of config.yaml under the overlays, if there are any."""
    found: list[str] = []
    if suites:
        config = {"suites": suites, "seeds": [0], "methods": list(REFERENCES), "tables": [], "figures": []}
        found += Experiment(config, ROOT, ConfigParts({"--suite": config})).used_assets()
    if overlays:
        parts = ConfigParts.read(ROOT, [overlay.absolute() for overlay in overlays], {})
        found += Experiment(parts.merged(), ROOT, parts).used_assets()
    return found


def renewed(asset: str, spec: Mapping[str, Any], old: Mapping[str, Any], accept: bool) -> dict[str, Any]:
    """Return the new entry of an asset; UserError if it contradicts unverified values and is not accepted."""
    entry = pin(asset, spec)
    changes = differences(entry, old)
    for change in changes:
        tell(f"{asset}: CHANGED: {change}")
    if changes and "unverified" in old and not accept:
        raise UserError(
            f"asset '{asset}': the values found are not those noted ({old['unverified']}); find out why, and if they"
            f" are right, run: nan-merge lock --accept {asset}"
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
