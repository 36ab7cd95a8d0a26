"""Make files of an archived run again: Snakemake in a scratch folder, with archived config and inputs and the code of here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from archiving.contents import CODE
from archiving.run import CONFIG, config_of
from nan_merge.core.code_digest import Code
from nan_merge.core.errors import UserError

CHOICES = ("results/selected/",)
COEFFICIENTS = ("results/coefficients/",)
RESULTS = (CONFIG, "results/scores.tsv", "results/comparisons.tsv", "results/premise/", "results/tables/", "results/figures/",
           "results/published/", "results/claims.", "results/report.html")  # fmt: skip
OPTIONS = ("--nolock", "--cores", "all", "--quiet", "progress", "rules", "host", "reason")
OUTER = ("PYTHONPATH", "SNAKEMAKE_PROFILE", "SNAKEMAKE_OUTPUT_CACHE")  # of the user, for runs of their own
TAIL = 15  # lines of Snakemake's output in a message


@dataclass(frozen=True)
class Layer:
    """Rules that are run again, and the places of what they make."""

    rules: tuple[str, ...]
    places: tuple[str, ...]

    def makes(self, name: str) -> bool:
        """Return whether a file of the run is made by these rules."""
        return name.startswith(self.places) and not (name.startswith("results/premise/") and name.count("/") > 2)


REPORTING = Layer(
    ("all", "write_run_config", "gather_scores", "compare_methods", "gather_premise", "render_table", "render_published",
     "draw_figure", "write_claims", "write_report"),
    RESULTS,
)  # fmt: skip
ESTIMATION = Layer(("select_coefficients", "estimate_coefficients"), (*CHOICES, *COEFFICIENTS))


def code_of(root: Path) -> str:
    """Return the digest of the scripts that make all this."""
    rules = (rule for layer in (REPORTING, ESTIMATION) for rule in layer.rules if rule != "all")
    return Code(root).digest(*(f"scripts.{rule}" for rule in rules))


@contextmanager
def made_again(root: Path, archive: Path, names: Iterable[str], layer: Layer, targets: Iterable[str] = ()) -> Iterator[Path]:
    """Yield a folder in which the files of a layer were made again from the other ones of an unpacked archive.

    Without targets everything that the config asks for is made. Raises UserError where Snakemake fails, with its last lines.
    """
    kept = [name for name in names if name.startswith(("config/", "results/")) and not layer.makes(name)]
    with _scratch(root, archive, kept) as folder:
        for digest in (folder / "results/digests").rglob("*.json"):  # no file of a layer is made from a merge
            merge = digest.relative_to(folder / "results/digests").with_suffix("")
            (folder / "results/merged" / merge).mkdir(parents=True, exist_ok=True)
        _run(folder, archive, ["--allowed-rules", *layer.rules, "--", *targets])
        yield folder


@contextmanager
def made_from_assets(root: Path, archive: Path, names: Iterable[str], assets: Path, targets: Iterable[str]) -> Iterator[Path]:
    """Yield a folder in which targets were made again by all rules, from the archived config and a folder with fetched assets."""
    with _scratch(root, archive, [name for name in names if name.startswith("config/")]) as folder:
        shutil.copytree(assets, folder / "results/assets", symlinks=True)
        _run(folder, archive, ["--", *targets])
        yield folder


@contextmanager
def _scratch(root: Path, archive: Path, names: Iterable[str]) -> Iterator[Path]:
    """Yield a folder with the code of the checkout and some files of an unpacked archive."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        folder.mkdir()
        for name in CODE:
            if (root / name).is_dir():
                shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            elif (root / name).is_file():
                shutil.copy2(root / name, folder / name)
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(archive / name, folder / name)
        yield folder


def _run(folder: Path, archive: Path, words: Sequence[str]) -> None:
    """Run Snakemake in a folder with the config of an unpacked archive."""
    with config_of(archive) as overlay:
        command = [sys.executable, "-m", "snakemake", *OPTIONS, "--configfile", str(overlay), *words]
        kept = {key: value for key, value in os.environ.items() if key not in OUTER}
        path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)])
        done = subprocess.run(
            command, cwd=folder, env={**kept, "PATH": path}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", check=False,
        )  # fmt: skip
    if done.returncode:
        lines = [line for line in done.stdout.replace(f"{folder}/", "").splitlines() if line.strip()]
        raise UserError("\n    ".join(["cannot be made again; the last lines of Snakemake:", *lines[-TAIL:]]))
