"""Remove what killed jobs left half written below results/ (names that end in .part); nothing else is touched."""

import shutil
from pathlib import Path

from cluster import snakemake_log
from cluster.slurm import jobs_in
from nan_merge.cli.parser import command_parser
from nan_merge.core.atomic import restore
from nan_merge.core.command_line import command_line
from nan_merge.core.errors import UserError


def main() -> None:
    """Parse the command line, refuse while a run may be writing, and remove."""
    parser = command_parser("clean", __doc__, "nan-merge clean --dry-run")
    parser.add_argument("--directory", type=Path, default=Path(), metavar="FOLDER", help="the folder that Snakemake runs in")
    parser.add_argument("--dry-run", action="store_true", default=False, help="only say what would be removed")
    args = parser.parse_args()
    folder = args.directory.resolve()
    found = {path for path in (folder / "results").rglob(".*.part") if path.exists()}
    left = sorted(path for path in found if found.isdisjoint(path.parents))  # the outermost
    if left and not args.dry_run:
        refuse_while_writing(folder)
    for path in left:
        size = sum(file.lstat().st_size for file in [path, *path.rglob("*")] if file.is_file())
        if not args.dry_run:
            restore(path)  # an old result that a killed process had only moved aside
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        print(f"{'would remove' if args.dry_run else 'removed'} {path.relative_to(folder)}, {size / 1e6:,.1f} MB")
    print(f"{len(left)} partial files or folders")


def refuse_while_writing(folder: Path) -> None:
    """Raise UserError where a run holds the folder or its jobs are still in SLURM's queue."""
    if snakemake_log.is_locked(folder):
        raise UserError(f"a run is at work in {folder}; wait for it to end. If it was killed: snakemake --unlock")
    if jobs := jobs_in(folder):
        raise UserError(f"jobs of this folder are still in SLURM's queue; wait, or: scancel {' '.join(j.number for j in jobs)}")


if __name__ == "__main__":
    command_line(main)
