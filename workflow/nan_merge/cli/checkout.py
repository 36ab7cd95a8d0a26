"""Subcommands that are scripts of a checkout, run with the library of that checkout: `nan-merge evaluate`, `plan` and others."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from nan_merge.catalogue import places
from nan_merge.core.errors import UserError

SCRIPTS = {
    "evaluate": "evaluate_models",
    "export": "export_results",
    "plan": "plan_run",
    "lock": "update_lock",
    "status": "show_status",
    "clean": "remove_partial",
    "archive": "archive_run",
    "verify": "verify_archive",
    "compare": "compare_archives",
}
NEEDS = {"plan": "snakemake", "archive": "snakemake", "verify": "snakemake"}
NO_RUN = ("evaluate", "lock", "verify", "compare")  # what is not about a run of the workflow


def main(command: str, argv: Sequence[str]) -> None:
    """Become the script of a command; paths are relative to the current folder, and the run is that of the checkout.

    The run is that of the current folder where Snakemake has run here, or where the arguments end with a `--directory`.
    """
    here = Path.cwd()
    root = next((folder for folder in (here, *here.parents) if places.is_checkout(folder)), None) or places.checkout()
    if root is None:
        raise UserError(
            f"nan-merge {command}: works on a checkout of the workflow; there is none at {here} or above. Get one (git clone, of"
            " the repository that this package is from), and run the command inside"
        )
    if (package := NEEDS.get(command)) and importlib.util.find_spec(package) is None:
        raise UserError(f"nan-merge {command}: needs {package}, which is not installed here; run: pip install '{root}[workflow]'")
    run = [] if command in NO_RUN else ["--directory", str(here if (here / ".snakemake").is_dir() else root)]
    path = [str(root / "workflow"), str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    words = [sys.executable, "-P", "-m", f"scripts.{SCRIPTS[command]}", *run, *argv]
    sys.stdout.flush()
    os.execve(sys.executable, words, {**os.environ, "PYTHONPATH": os.pathsep.join(path)})
