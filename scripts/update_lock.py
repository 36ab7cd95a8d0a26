"""Download assets and write name, size and SHA-256 of their archives into config/assets.lock.json. Run by hand only."""

import argparse
import tempfile
from pathlib import Path

from config_files import known_names, read_yaml
from merging.assets import download
from merging.provenance import sha256
from merging.results import command_line, read_json, write_json

FOLDER = Path(__file__).resolve().parent.parent / "config"


def main() -> None:
    """Lock the named assets, or all that are not locked yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("assets", nargs="*", help="asset ids; without any, those that the lock lacks")
    wishes = read_yaml(FOLDER / "assets.yaml")
    lock = read_json(FOLDER / "assets.lock.json")
    assets = parser.parse_args().assets or sorted(set(wishes) - set(lock))
    known_names("update_lock", assets, wishes)
    for asset in assets:
        with tempfile.TemporaryDirectory() as scratch:
            archive = download(asset, wishes[asset], Path(scratch))
            lock[asset] = {"name": archive.name, "size": archive.stat().st_size, "sha256": sha256(archive)}
        print(f"{asset}: {lock[asset]['name']}, {lock[asset]['size']:,} bytes, sha256 {lock[asset]['sha256']}")
    write_json(FOLDER / "assets.lock.json", {asset: lock[asset] for asset in sorted(lock) if asset in wishes})


if __name__ == "__main__":
    command_line(main)
