"""The files of an archive: results and records of a run, its config, the state of the code."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from archiving.run import Run
from nan_merge.archive import predictions
from nan_merge.archive.container import WHOLE, manifest
from nan_merge.archive.privacy import Traces
from nan_merge.core.errors import UserError
from planning.jobs import PlannedJob

LARGE = (".safetensors", ".npy")  # arrays of heads and data, which are made again from the assets
RECORDS = ("dataset.json", "calibration.json", "asset.json", "source.json", "provenance.json")  # of a folder, all that is kept
MERGED = "results/merged/"
SOURCES = ("Snakefile", "requirements.txt", "requirements-language.txt")  # that are kept whole, besides config/
CODE = ("Snakefile", "workflow", "scripts", "envs", "profiles")  # all that a run reads besides config/
IMAGE = re.compile(r"data:image/\w+;base64,[\w+/=]+")  # in which a name or a path can stand by chance
TABLES = re.compile(r"results/(tables/.+\.csv|claims\.csv|comparisons\.tsv|searches/.+|benchmarks/merge_checkpoints/.+)")
HEAD = 40  # lines that are kept of a log
STREAM = re.compile(rb"\bstream\r?\n.*?\bendstream\b", re.DOTALL)  # compressed, in a PDF: any letters by chance
BINARY = (".npz", ".npy", ".png", ".gz", ".safetensors", ".bin")


def files_of(run: Run, root: Path, weights: bool) -> dict[str, Path]:
    """Return the files of an archive that are kept as they are, by name; `weights` adds the merged models that exist."""
    found = {file.relative_to(root).as_posix(): file for file in sorted((root / "config").rglob("*")) if file.is_file()}
    found |= {name: root / name for name in SOURCES if (root / name).is_file()}
    for name in run.outputs:
        path = run.folder / name
        if path.is_dir():
            records = [] if name.startswith(MERGED) else [path / record for record in RECORDS]  # digests have those of merges
            kept = path.rglob("*") if weights and not records else records
            found |= {file.relative_to(run.folder).as_posix(): file for file in sorted(kept) if file.is_file()}
        elif path.suffix not in LARGE:
            found[name] = path
    hidden = {name for name in found if Path(name).name.startswith(".snakemake")}
    results = {name: file for name, file in found.items() if name not in hidden}
    return results | {name: run.folder / name for name in (*run.benchmarks, *run.records)}


def tables_alone(facts: Mapping[str, Any], contents: Mapping[str, Path | bytes]) -> dict[str, Path | bytes]:
    """Return of the files of an archive the tables, comparisons, claims, searches and times of merges, and its manifest."""
    return {**{name: content for name, content in contents.items() if TABLES.fullmatch(name)}, WHOLE: manifest(facts, contents)}


def made_of(run: Run, changes_of_code: str, files: dict[str, Path], traces: Traces) -> dict[str, bytes]:
    """Return the files of an archive that are written for it: tables of predictions, heads of logs, changes of the code."""
    changes = {"code/changes.diff": changes_of_code.encode()} if changes_of_code else {}
    logs = {name: traces.removed(_head(run.folder / name)).encode() for name in run.logs}
    return {**predictions.tables(files), **changes, **logs}


def _head(file: Path) -> str:
    with open(file, encoding="utf-8", errors="replace") as lines:
        kept = [line for _, line in zip(range(HEAD + 1), lines, strict=False)]
    return "".join(kept[:HEAD]) + (f"(the first {HEAD} lines)\n" if len(kept) > HEAD else "")


def code_state(root: Path) -> dict[str, str]:
    """Return the commit of the checkout and how its code differs from it; nothing where it is no checkout of git."""

    def git(*words: str, **how: Any) -> str:
        command = ["git", "-C", str(root), "-c", "core.quotepath=off", *words]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, **how)
        return done.stdout if done.returncode == 0 else ""

    if not (root / ".git").exists() or not (commit := git("rev-parse", "HEAD").strip()):
        return {}
    with tempfile.TemporaryDirectory() as scratch:  # an index of its own, in which new files are named
        here = {**os.environ, "GIT_INDEX_FILE": f"{scratch}/index"}
        git("read-tree", "HEAD", env=here)
        git("add", "--all", "--intent-to-add", "--", *(name for name in CODE if (root / name).exists()), env=here)
        changes = git("diff", "--no-color", "--no-ext-diff", "--binary", "HEAD", "--", *CODE, *SOURCES, env=here)
    return {"commit": commit, "changes": changes}


def refuse_traces(contents: dict[str, Path | bytes], traces: Traces) -> None:
    """Raise UserError where a text of an archive would tell the host, the user, an absolute path or a token."""
    found = [(name, trace) for name, content in contents.items() for trace in traces.find(f"{name}\n{_text(name, content)}")]
    if not found:
        return
    name, trace = found[0]
    more = f", and {len(found) - 1} more in {len({each for each, _ in found})} files" if len(found) > 1 else ""
    shown = "" if "token" in trace.kind or trace.kind in ("private key", "secret of the environment") else f" {trace.text!r}"
    raise UserError(
        f"{name}, line {max(trace.line - 1, 1)}: holds the {trace.kind}{shown}{more}; an archive is for others, so nothing is"
        f" written. {_remedy(name, trace.kind)}"
    )


def _remedy(name: str, kind: str) -> str:
    if kind == "absolute path":
        return "Name files by paths relative to the folder of the run (a link there may lead anywhere), and run snakemake again"
    place = "that file" if name.startswith(("config/", "code/")) else "the config"
    return f"Remove it from {place}, and run snakemake again"


def _text(name: str, content: Path | bytes) -> str:
    if name.endswith(BINARY):
        return ""
    found = content if isinstance(content, bytes) else content.read_bytes()
    text = (STREAM.sub(b"", found) if name.endswith(".pdf") else found).decode("utf-8", "replace")
    return IMAGE.sub("", text)


def named(job: PlannedJob) -> str:
    """Return the name of a job: `merge_checkpoints text/ties/0`."""
    return " ".join(filter(None, (job.rule, "/".join(job.wildcards.values()))))
