"""Merge by files of mergekit with mergekit and with `nan-merge import-mergekit`, and write their largest differences.

    python -m benchmarks.parity.imports --mergekit PYTHON

`PYTHON` is that of an environment with mergekit. The files, in `mergekit_files/`, have the forms of mergekit's own examples and
of its documentation. Each is merged twice: as it is, and with float64 in place of its types, which shows whether both compute
the same. Ends with an error where a merge in float64, a type of the output or a chat template differs.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.cases import ROOT, facts
from benchmarks.parity.import_models import make
from benchmarks.parity.models import Family, read
from benchmarks.parity.run import VARIABLES, distance
from benchmarks.tables import grid, save
from nan_merge.checkpoints.checkpoint import Checkpoint
from nan_merge.cli import import_mergekit
from nan_merge.core.command_line import command_line
from nan_merge.core.errors import UserError
from nan_merge.standalone.mergekit_files import template_of

FILES = Path(__file__).with_name("mergekit_files")
AS_WRITTEN, DOUBLE = "as written", "float64"
WITHIN = 1e-9  # largest error in float64 that counts as agreement, in units of the largest entry of a task vector
ADAPTERS = 1e-6  # the same for merges with adapters, which mergekit merges in float32 first
HEAD = ("file", "it has", "error as written", "of the largest τ", "error in float64", "of the largest τ", "type", "same")


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, compare, and write the table."""
    parser = argparse.ArgumentParser(
        "benchmarks.parity.imports", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mergekit", type=Path, required=True, metavar="PYTHON", help="of an environment with mergekit")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results", help="folder of the JSON and the table")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        rows = compare(args.mergekit.absolute(), Path(folder))
        results = {"facts": facts(Path(folder), {"mergekit": args.mergekit}), "rows": rows}
    save(args.output / "imports", results, table(results))
    if wrong := [each["file"] for each in rows if not each["agrees"]]:
        raise UserError(f"these should agree and do not: {', '.join(wrong)}")


def compare(python: Path, folder: Path) -> list[dict[str, Any]]:
    """Merge by every file with both programs, in the folder of the models, and return a row a file."""
    family = make(folder / "models")
    work = [(file, way, folder / f"{file.stem}-{way}") for file in sorted(FILES.glob("*.yml")) for way in (AS_WRITTEN, DOUBLE)]
    jobs = []
    for file, way, place in work:
        place.mkdir()
        documents = [retyped(each, way) for each in yaml.safe_load_all(file.read_text(encoding="utf-8"))]
        (place / "file.yml").write_text(yaml.safe_dump_all(documents, sort_keys=False), encoding="utf-8")
        jobs += theirs(place, folder / "adapters")
    (folder / "jobs.json").write_text(json.dumps(jobs))
    command = [str(python), str(Path(__file__).with_name("peer_mergekit.py")), str(folder / "jobs.json")]
    done = subprocess.run(command, cwd=family.folder, env={**os.environ, **VARIABLES}, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"mergekit failed: {done.stderr.strip().splitlines()[-1] if done.stderr else done.returncode}")
    for _, _, place in work:
        with contextlib.chdir(family.folder), contextlib.redirect_stdout(io.StringIO()):
            import_mergekit.main([str(place / "file.yml"), "--output", str(place / "ours"), "--quiet"])
    return [row(file, {way: place for each, way, place in work if each == file}, family) for file in sorted(FILES.glob("*.yml"))]


def retyped(content: Mapping[str, Any], way: str) -> dict[str, Any]:
    """Return a document of a file with the types of one way to merge by it."""
    types = {"dtype": DOUBLE, **({"out_dtype": DOUBLE} if "out_dtype" in content else {})}
    return {**content, **(types if way == DOUBLE else {})}


def theirs(place: Path, adapters: Path) -> list[dict[str, Any]]:
    """Return the jobs for `peer_mergekit.py` by the file in a folder, one a document, the one without a name last."""
    jobs: list[dict[str, Any]] = []
    documents = import_mergekit.documents(place / "file.yml")
    outputs = {name: str(place / f"theirs{'-' * bool(name)}{name}") for name, _ in documents}
    options = {"copy_tokenizer": True, "lora_merge_cache": str(adapters), "lora_merge_dtype": "float32"}
    for name, content in documents:
        text = json.dumps(content)
        for earlier in filter(None, outputs):
            text = text.replace(json.dumps(earlier), json.dumps(outputs[earlier]))
        jobs.append({"config": json.loads(text), "output": outputs[name], "draw": False, "options": options})
    return jobs


def row(file: Path, places: Mapping[str, Path], family: Family) -> dict[str, Any]:
    """Return the comparison of the merges by one file, by way of merging."""
    found = {way: (place / "ours", place / "theirs") for way, place in places.items()}
    errors = {way: distance(read(ours), read(peer)) for way, (ours, peer) in found.items()}
    types = [Counter(entry.dtype for entry in Checkpoint(each).entries.values()) for each in found[AS_WRITTEN]]
    templates = {template_of(each) for each in found[AS_WRITTEN]}
    text, largest = file.read_text(encoding="utf-8"), family.largest()
    within = ADAPTERS if "adapter" in text else WITHIN
    alike = len(templates) == 1 or "base_model" not in text  # without one, mergekit copies from any of the models, by chance
    return {
        "file": file.name,
        "about": text.partition("\n")[0].removeprefix("# "),
        "errors": errors,
        "largest_task_vector": largest,
        "types": [sorted(each) for each in types],
        "agrees": errors[DOUBLE] <= within * largest and types[0] == types[1] and alike,
    }


def table(results: Mapping[str, Any]) -> str:
    """Return the table with its heading and versions."""
    of, versions = results["facts"]["peers"]["mergekit"], results["facts"]["versions"]
    lines = [
        "# Files of mergekit, merged by both programs", "",
        f"Measured {results['facts']['date']}; mergekit {of['mergekit']} (torch {of['torch']}, NumPy here {versions['numpy']})."
        " Models: random LLaMA of six layers in float32, three experts, one with more and one with fewer tokens, and an adapter.",
        "",
        "*error* is the largest difference in any number of the merged models, *of the largest τ* the same in units of the"
        " largest entry of any task vector. As written, mergekit computes in the file's `dtype`, and `import-mergekit` in"
        " float32 or wider, rounded once: bfloat16 rounds weights near 1 at 4e-3, float16 at 5e-4, and an entry that rounding"
        " takes across the threshold of TIES is kept by one of them only. In float64 the formulas are compared: *same* is ✓"
        f" where the largest error is below {WITHIN:g} of the largest τ ({ADAPTERS:g} with an adapter, which mergekit merges in"
        " float32 first) and the types and the chat templates of the outputs are the same. Without `base_model`"
        " mergekit copies tokenizer and template from any of the models, here from the first; then templates do not count.",
        "",
    ]  # fmt: skip
    return "\n".join([*lines, *grid(HEAD, [cells(each) for each in results["rows"]], 2), ""])


def cells(each: Mapping[str, Any]) -> list[str]:
    """Return one row of the table."""
    numbers = [
        text
        for way in (AS_WRITTEN, DOUBLE)
        for text in (f"{each['errors'][way]:.1e}", f"{each['errors'][way] / each['largest_task_vector']:.1e}")
    ]
    kinds = " / ".join(dict.fromkeys(", ".join(each_type) for each_type in each["types"]))
    return [f"`{each['file']}`", each["about"], *numbers, kinds, "✓" if each["agrees"] else "✗"]


if __name__ == "__main__":
    command_line(main)
