"""Put together the archive of a run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from archiving import crate, documents
from archiving.contents import code_state, files_of, made_of, named, refuse_traces
from archiving.replay import code_of
from archiving.run import CONFIG, Run
from nan_merge.archive.privacy import Traces
from nan_merge.catalogue.files import read_yaml
from nan_merge.core.errors import UserError
from nan_merge.core.files import read_json
from nan_merge.core.names import first_of
from nan_merge.core.versions import recorded_versions

MAIN_TABLE = "results/tables/main_"  # whose tables the first page shows
VERSIONED = re.compile(r"results/(scores|validation|digests)/.+\.json")  # that say which versions of packages made them


def collect(root: Path, folder: Path, weights: bool, partial: bool) -> tuple[dict[str, Any], dict[str, Path | bytes], list[str]]:
    """Return the keys of the manifest, the files of the archive by name, and what the user should know.

    Raises UserError for a run that is not finished, unless `partial`, and for one with private texts.
    """
    run = Run.read(root, folder)
    left, gone = [named(job) for job in run.left], run.gone
    if left and not partial:
        raise UserError(
            f"{folder}: the run is not finished: {len(left)} of {len(run.jobs)} jobs are to be done ({first_of(left)});"
            " run snakemake with the config of the run to the end, or archive what is there with --partial"
        )
    if gone and not partial:
        raise UserError(
            f"{folder}: files of the run are gone: {first_of(gone)}; make them again by naming them to snakemake, as in"
            f" `snakemake --cores all {gone[0]}`, or archive what is there with --partial"
        )
    config, state, files = read_yaml(folder / CONFIG), code_state(root), files_of(run, root, weights)
    facts = {
        "program": "nan-merge",
        "date": run.end.date().isoformat(),
        "code": code_of(root),
        "versions": recorded_versions(read_json(files[name]) for name in files if VERSIONED.fullmatch(name)),
        **({"commit": state["commit"]} if "commit" in state else {}),
        **({"partial": [*left, *gone]} if left or gone else {}),
    }
    traces = Traces([folder, root], (folder / CONFIG).read_text(encoding="utf-8"))
    contents: dict[str, Path | bytes] = {**files, **made_of(run, state.get("changes", ""), files, traces)}
    shown = [file for name, file in files.items() if name.startswith(MAIN_TABLE) and file.suffix == ".md"]
    tables = [file.read_text(encoding="utf-8") for file in shown]
    contents |= {each: text.encode() for each, text in documents.citation(config, facts, root / "CITATION.cff").items()}
    contents["README.md"] = documents.readme(config, facts, [*contents], tables).encode()
    described, notes = crate.metadata(config, facts, run, contents)
    contents |= described
    refuse_traces(contents, traces)
    return facts, contents, notes
