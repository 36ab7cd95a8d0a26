"""Describe an archive as a Workflow Run RO-Crate (profile Workflow Run Crate 0.5), by the library `rocrate`.

What is not known is left out: who ran it, author, publisher, and the address of the code. Of the licence, which the profile
requires, it is said that none is stated, and what the licences of the assets are.
"""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from archiving.documents import title
from archiving.run import CONFIG, METADATA, Run

FILE = "ro-crate-metadata.json"
WORKFLOW = "Snakefile"
PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": "Workflow RO-Crate",
}
TYPES = {".tsv": "text/tab-separated-values", ".yaml": "application/yaml", ".md": "text/markdown", ".npz": "application/zip",
         ".csv": "text/csv", ".tex": "application/x-tex", ".cff": "application/yaml", ".log": "text/plain",
         ".diff": "text/x-diff"}  # fmt: skip
LACKING = f"{FILE} is left out: it needs the package rocrate, which is not installed here; run: pip install rocrate"


def metadata(
    config: Mapping[str, Any], facts: Mapping[str, Any], run: Run, contents: Mapping[str, Path | bytes]
) -> tuple[dict[str, bytes], list[str]]:
    """Return the metadata file by name, and a note where it cannot be made; `contents` are the files of the archive."""
    try:
        from rocrate.model import ContextEntity
        from rocrate.rocrate import ROCrate
    except ImportError:
        return {}, [LACKING]
    crate = ROCrate(version="1.1")  # on which the profile builds
    root = crate.root_dataset
    root["name"], root["datePublished"] = title(config), facts["date"]
    root["license"] = licence(config)
    root["description"] = f"Results of a run of NAN-Merge that ended on {facts['date']}: see README.md."
    files = {
        name: crate.add_file(name, name, properties=_file(name, content))
        for name, content in sorted(contents.items())
        if name != WORKFLOW
    }
    files["README.md"]["about"] = root
    about = {"name": "NAN-Merge", "encodingFormat": "text/plain", "version": facts.get("commit", facts["code"])}
    workflow = crate.add_workflow(WORKFLOW, WORKFLOW, main=True, lang="snakemake", properties=about)
    inputs = [file for name, file in files.items() if name.startswith("config/")]
    results = [file for name, file in files.items() if name in run.outputs and name != CONFIG]
    words = {"name": f"Run of {title(config)}", "description": "All jobs of the config, as .snakemake/metadata records them."}
    action = crate.add_action(workflow, "#run", object=inputs, result=results, properties=words)
    action["startTime"], action["endTime"] = run.start.isoformat(timespec="seconds"), run.end.isoformat(timespec="seconds")
    root["mentions"] = action
    for profile, label in PROFILES.items():
        properties = {"@type": "CreativeWork", "name": label, "version": profile.rpartition("/")[2]}
        root.append_to("conformsTo", crate.add(ContextEntity(crate, profile, properties)))
    text = json.dumps(crate.metadata.generate(), indent=1, ensure_ascii=False, sort_keys=True)
    return {FILE: f"{text}\n".encode()}, []


def licence(config: Mapping[str, Any]) -> str:
    """Return what is known about the terms of the results: the licences of the assets that they were made from."""
    assets = [f"{name} ({asset['licence']})" for name, asset in sorted(config["assets"].items()) if "licence" in asset]
    return "No licence of these results is stated." + (f" They were made from: {'; '.join(assets)}." if assets else "")


def _file(name: str, content: Path | bytes) -> dict[str, Any]:
    kind = "application/json" if name.startswith(f"{METADATA}/") else TYPES.get(Path(name).suffix, mimetypes.guess_type(name)[0])
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    return {"name": name, "contentSize": str(size), **({"encodingFormat": kind} if kind else {})}
