"""The pages of an archive: what was run and how to verify it, for readers; how to cite it, for CITATION.cff and Zenodo."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from nan_merge.catalogue.files import read_yaml
from nan_merge.core.escape import code, markdown

CONTENTS = {
    "results/report.html": "checks, claims, figures and tables as one page",
    "results/claims.md": "claims of the papers: what was registered, and the verdicts",
    "results/claims.csv": "the numbers behind them",
    "results/tables": "every table as .csv, .md and .tex",
    "results/figures": "every figure as .svg and .png",
    "results/published": "printed tables of papers beside the measured numbers",
    "results/scores.tsv": "all scores as one table",
    "results/comparisons.tsv": "paired tests",
    "predictions": "every prediction: a row for each example, a column for each method",
    "results/scores": "scores and predictions as the jobs wrote them, test split",
    "results/validation": "the same on the validation split, of candidates",
    "results/subsets": "scores and predictions of the merges of random subsets of the experts",
    "results/selected": "choices made on validation",
    "results/trials": "points of the trials of searches",
    "results/searches": "traces of searches, and how optimistic their best score is",
    "results/coefficients": "coefficients of every merge",
    "results/data_checks": "overlap of splits, balance and simple baselines of the data",
    "results/measures": "norms that they come from",
    "results/premise": "measurements of the premise experiment",
    "results/digests": "digests and provenance of every merge",
    "results/merged": "merged weights",
    "results/benchmarks": "time and memory of each job",
    "results/logs": "the first lines of logs",
    "config": "all files of the config",
    "results/run_config.yaml": "what the config decided",
    "requirements.txt": "pinned packages",
    "code/changes.diff": "how the code differs from the commit",
    ".snakemake/metadata": "Snakemake's records: command, settings and times of each job",
    "manifest.json": "size and SHA-256 of every file",
}


def title(config: Mapping[str, Any]) -> str:
    """Return the title of an archive: the suites, or the models of the user."""
    labels = [suite["label"] for suite in config["suites"].values()] or sorted(config["config"].get("models", {}))
    return f"Merged models: {', '.join(map(str, labels))}"


def readme(config: Mapping[str, Any], facts: Mapping[str, Any], names: Sequence[str], tables: Sequence[str]) -> str:
    """Return README.md: what was run, the main tables (Markdown), how to verify and to cite.

    `facts` are the keys of the manifest, `names` the files of the archive.
    """
    partial = facts.get("partial", [])
    lines = [f"# {markdown(title(config))}", ""]
    if partial:
        lines += [
            "**This run is partial**: these jobs were not done, or files are gone; what depends on them is missing or outdated:",
            "",
        ]
        lines += [*(f"- {markdown(job)}" for job in partial), ""]
    lines += [
        f"Results of a run of NAN-Merge that ended on {facts['date']} (UTC)."
        + (f" The code is commit {code(facts['commit'])}" if "commit" in facts else "")
        + (" with the changes in `code/changes.diff`." if "code/changes.diff" in names else "." if "commit" in facts else ""),
        "",
        "## What was run",
        "",
        *_run(config),
        "",
        *(line for table in tables for line in ["## Results", "", table.strip(), ""][0 if table is tables[0] else 2 :]),
        "## How to verify",
        "",
        "In a checkout of NAN-Merge"
        + (f" at commit {code(facts['commit'])}" if "commit" in facts else "")
        + ", after `make demo` or",
        "`pip install -r requirements.txt -e .`; no network is needed:",
        "",
        "```console",
        "nan-merge verify FILE.zip",
        "```",
        "",
        "It checks every digest, makes all tables, comparisons, figures and the report again from the predictions, and the",
        "coefficients from the norms, and compares them byte for byte.",
        "",
        "## How to cite",
        "",
        "`CITATION.cff` cites this archive, the software and the papers whose methods it uses.",
        "",
        "## Contents",
        "",
        "| path | content |",
        "| --- | --- |",
        *(f"| `{path}` | {what} |" for path, what in CONTENTS.items() if path == "manifest.json" or _holds(names, path)),
    ]
    return "\n".join(lines) + "\n"


def _holds(names: Sequence[str], path: str) -> bool:
    return any(name == path or name.startswith(f"{path}/") for name in names)


def _run(config: Mapping[str, Any]) -> list[str]:
    """Return the suites and models of a run as a list."""
    methods, seeds = config["config"].get("methods", []), config["config"].get("seeds", [])
    lines = [f"- {markdown(suite['label'])}: tasks {', '.join(map(code, suite['tasks']))}" for suite in config["suites"].values()]
    lines += [f"- models {code(name)}" for name in config["config"].get("models", {})]
    return [*lines, f"- methods: {', '.join(map(code, methods))}", f"- seeds: {', '.join(map(str, seeds))}"]


def citation(config: Mapping[str, Any], facts: Mapping[str, Any], software: Path) -> dict[str, str]:
    """Return CITATION.cff and .zenodo.json; what is not known is left out. `software` is the CITATION.cff of the checkout."""
    cited = read_yaml(software) if software.is_file() else {}
    authors = cited.get("authors", [{"name": "The users of NAN-Merge"}])
    own = {key: cited[key] for key in ("type", "title", "authors", "version", "license") if key in cited}
    record = {
        "cff-version": "1.2.0",
        "message": "If you use these results, please cite them, the software and the papers whose methods they are of.",
        "title": title(config),
        "type": "dataset",
        "authors": authors,
        "date-released": facts["date"],
        **({"commit": facts["commit"]} if "commit" in facts else {}),
        "references": [*([own] if own else []), *cited.get("references", [])],
    }
    zenodo = {
        "title": title(config),
        "upload_type": "dataset",
        "description": f"Predictions, scores, tables and report of a run of NAN-Merge that ended on {facts['date']}.",
        "creators": [{"name": _name(author)} for author in authors],
        "publication_date": facts["date"],
        "keywords": ["model merging", "reproducibility"],
    }
    text = yaml.safe_dump(record, sort_keys=False, allow_unicode=True, width=110)
    return {"CITATION.cff": text, ".zenodo.json": json.dumps(zenodo, indent=1, ensure_ascii=False) + "\n"}


def _name(author: Mapping[str, str]) -> str:
    return author.get("name") or ", ".join(filter(None, (author.get("family-names"), author.get("given-names"))))
