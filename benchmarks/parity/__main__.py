"""Merge the same small models with this project and with public implementations, and write their largest differences.

    python -m benchmarks.parity --mergekit PYTHON --fusionbench PYTHON

`PYTHON` is that of an environment with the other program. Ends with an error where two merges that should be the same
are not.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cases import ROOT, facts
from benchmarks.parity.comparisons import COMPARISONS
from benchmarks.parity.findings import FOUND
from benchmarks.parity.models import Family, make
from benchmarks.parity.run import Comparison, distance, ours, peers
from benchmarks.parity.table import faults, row, table
from benchmarks.tables import save
from nan_merge.core.command_line import command_line
from nan_merge.core.errors import UserError


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, compare, and write the table."""
    parser = argparse.ArgumentParser(
        "benchmarks.parity", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fusionbench", type=Path, metavar="PYTHON", help="of an environment with fusion-bench")
    parser.add_argument("--mergekit", type=Path, metavar="PYTHON", help="of an environment with mergekit")
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="only these, by the peer's name or by ours")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results", help="folder of the JSON and the table")
    args = parser.parse_args(argv)
    pythons = {name: path for name, path in (("fusion-bench", args.fusionbench), ("mergekit", args.mergekit)) if path}
    if not pythons:
        parser.error("expected --fusionbench, --mergekit or both")
    chosen = [each for each in COMPARISONS if not args.methods or {each.method, each.ours} & set(args.methods)]
    with tempfile.TemporaryDirectory() as folder:
        rows = [each for peer, python in pythons.items() for each in compare(peer, python, chosen, Path(folder))]
        results = {"facts": facts(Path(folder), pythons), "rows": rows, "found": FOUND}
    save(args.output / "parity", results, table(results))
    if wrong := faults(rows):
        raise UserError(f"these should agree and do not: {'; '.join(wrong)}")


def compare(peer: str, python: Path, chosen: Sequence[Comparison], folder: Path) -> Iterator[dict[str, Any]]:
    """Run all comparisons with one peer and return its rows."""
    work = [(each, family(name, each, folder)) for each in chosen if each.peer == peer for name in each.families]
    found = peers(python, peer, work, folder / peer) if work else []
    for number, ((compared, models), theirs) in enumerate(zip(work, found, strict=True)):
        here = ours(compared, models, folder / f"ours-{peer}" / str(number))
        errors = {precision: distance(here[precision], theirs[precision], compared.apart) for precision in theirs}
        yield row(compared.record, models.name, errors, models.largest())
        print(f"{peer} {compared.method} {models.name}: {errors['float64']:.1e}", flush=True)


def family(name: str, compared: Comparison, folder: Path) -> Family:
    """Return the models of one comparison; equal models are made once."""
    place = folder / f"{name}-{compared.experts}-{compared.shared}"
    return Family(name, place, compared.experts) if place.exists() else make(name, place, compared.experts, compared.shared)


if __name__ == "__main__":
    command_line(main)
