"""Check an archive, layer by layer. Exit code 0 only if all layers hold that were tried.

Layers: 1 digests; 2 tables, comparisons, figures, report made again from predictions; 3 coefficients from norms;
on request 4 merges and 5 scores, from assets.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from nan_merge.cli.parser import command_parser
from nan_merge.core.command_line import command_line
from nan_merge.core.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
SHOWN = 20  # faults of a layer


def main() -> None:
    """Parse the command line and verify."""
    parser = command_parser("verify", __doc__, "nan-merge verify results.zip")
    parser.add_argument("archive", type=Path, metavar="FILE.zip", help="what nan-merge archive has written")
    parser.add_argument("--json", action="store_true", default=False, help="print JSON")
    parser.add_argument(
        "--assets", type=Path, default=None, metavar="FOLDER", help="results/assets of a run: make the merges again, experts too"
    )
    parser.add_argument("--rescore", action="store_true", default=False, help="with --assets: predictions and scores as well")
    args = parser.parse_args()
    if args.rescore and args.assets is None:
        parser.error("--rescore needs --assets FOLDER")
    raise SystemExit(0 if check(args.archive, args.json, args.assets, args.rescore) else 1)


def check(file: Path, as_json: bool, assets: Path | None, rescore: bool) -> bool:
    """Print the finding of every layer and return whether all that were tried hold; `--help` does not wait for its imports."""
    from archiving.verify import differing, verify
    from nan_merge.archive.container import WHOLE, opened

    if assets is not None and not assets.is_dir():
        raise UserError(f"--assets {assets}: there is no such folder; expected results/assets of a run")
    with opened(file) as archive, tempfile.TemporaryDirectory() as scratch:
        if assets is not None and WHOLE in archive.files:
            raise UserError(f"{file}: has tables and digests alone; --assets needs the whole archive, get it")
        notes = differing(archive, ROOT)
        for note in [] if as_json else notes:  # before the faults, which they may explain
            print(f"note: {note}", flush=True)
        findings = []
        for finding in verify(archive, ROOT, Path(scratch), assets, rescore):
            findings.append(finding)
            if not as_json:
                print("\n".join(text(finding)), flush=True)
    holds = all(finding.holds is not False for finding in findings)
    if as_json:
        layers = [{**vars(finding), "holds": finding.holds} for finding in findings]
        print(json.dumps({"archive": str(file), "holds": holds, "notes": notes, "layers": layers}, indent=1, ensure_ascii=False))
    else:
        tried = "the digests hold; the rest was not tried, get the whole archive" if findings[-1].untried else "holds"
        print(f"{file}: {tried if holds else 'does not hold'}")
    return holds


def text(finding: Any) -> list[str]:
    """Return the lines of a layer: whether it holds, and each fault."""
    faults = f"{len(finding.faults)} fault{'' if len(finding.faults) == 1 else 's'}"
    held = f"holds ({finding.compared} compared)" if finding.holds else f"does not hold ({faults})"
    held = f"not tried ({finding.untried})" if finding.untried else held
    lines = [f"{finding.layer} {finding.title}: {held}", *(f"  {fault}" for fault in finding.faults[:SHOWN])]
    more = len(finding.faults) - SHOWN
    return [
        *lines,
        *([f"  and {more} more (--json lists all)"] if more > 0 else []),
        *(f"  note: {note}" for note in finding.notes),
    ]


if __name__ == "__main__":
    command_line(main)
