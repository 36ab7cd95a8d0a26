"""Write a finished run as one zip: config, predictions, scores, coefficients, norms, tables, report, records of every job."""

import argparse
from pathlib import Path

from nan_merge.cli.parser import command_parser
from nan_merge.core.command_line import command_line
from nan_merge.core.errors import UserError, tell

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Parse the command line and write the archive."""
    parser = command_parser(
        "archive", __doc__, "nan-merge archive results.zip", "nan-merge archive [RUN] FILE.zip [--weights | --tables] [--partial]"
    )
    parser.add_argument("--directory", type=Path, default=Path(), help=argparse.SUPPRESS)
    parser.add_argument(
        "places", type=Path, nargs="+", metavar="[RUN] FILE.zip", help="folder that Snakemake ran in, and the file"
    )
    how_much = parser.add_mutually_exclusive_group()
    how_much.add_argument("--weights", action="store_true", default=False, help="with the merged models that exist")
    how_much.add_argument(
        "--tables", action="store_true", default=False, help="tables and claims alone, with the digests of all other files"
    )
    parser.add_argument("--partial", action="store_true", default=False, help="also a run with jobs that are not done")
    args = parser.parse_args()
    if len(args.places) > 2:
        parser.error(f"expected [RUN] FILE.zip, found {len(args.places)} paths")
    *folder, output = args.places
    write_archive(folder[0] if folder else args.directory, output, args.weights, args.partial, args.tables)


def write_archive(folder: Path, output: Path, weights: bool, partial: bool, tables: bool) -> None:
    """Check the run and write the archive; its imports take a second, which `--help` does not wait for."""
    from archiving.archive import collect
    from archiving.contents import tables_alone
    from nan_merge.archive import container
    from nan_merge.catalogue import places
    from nan_merge.core.disk import human

    folder, output = folder.resolve(), output.resolve()
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; expected the folder that Snakemake ran in")
    if places.is_checkout(folder) and folder != ROOT:
        raise UserError(f"{folder}: is a checkout of its own, with other code than {ROOT}; run the command inside it")
    if output.suffix != ".zip":
        raise UserError(f"{output}: expected a name that ends in .zip")
    container.refuse_loss(output, tables)
    facts, contents, notes = collect(ROOT, folder, weights, partial)
    contents = tables_alone(facts, contents) if tables else contents
    container.write(output, facts, contents)
    for note in notes:
        tell(f"note: {note}")
    print(f"{output}: {len(contents)} files, {human(output.stat().st_size)}")


if __name__ == "__main__":
    command_line(main)
