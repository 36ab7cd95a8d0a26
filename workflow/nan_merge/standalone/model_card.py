"""Document a merged model: provenance.json with all inputs of the merge, and the model card README.md.

The card is a function of the provenance. Neither holds a date, a host or a number of threads: the same merge gives the
same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from nan_merge.core.files import read_json, sha256, write_json
from nan_merge.standalone.sources import Source, files

PROVENANCE, CARD = "provenance.json", "README.md"
LICENCE = ("license", "license_name", "license_link")
TAGS = ["merge", "nan-merge"]


def document(folder: Path, record: Mapping[str, Any]) -> None:
    """Write provenance.json and the model card of a merged model into its folder.

    `record` holds `name`, `method`, `method_spec`, `coefficients` (a table's record), `inputs` (by `origin`, the base
    first); optional are `label`, `reference`, `command`, `thresholds`, `exclude`, `seed`, `dtype`, `device`, `notes` and
    `versions`.
    """
    write_json(folder / PROVENANCE, record)
    (folder / CARD).write_text(card(record), encoding="utf-8")


def digest(folder: Path) -> dict[str, Any]:
    """Return what identifies a merged model without its weights: SHA-256 of every file, provenance and model card."""
    return {
        "sha256": {file.name: sha256(file) for file in sorted(folder.iterdir()) if not file.name.startswith(".")},
        "provenance": read_json(folder / PROVENANCE),
        "card": (folder / CARD).read_text(encoding="utf-8"),
    }


def origin(source: Source, digest: str) -> dict[str, Any]:
    """Describe one input: its place, files and licence, and the XXH3-128 digest of the tensors that entered."""
    place = {"hub": source.repo, "commit": source.commit} if source.repo else {"path": source.given}
    return {"title": source.title, **place, "xxh3_128": digest, "files": files(source.folder), **_about(source.folder)}


def _about(folder: Path) -> dict[str, str]:
    """Return licence and pipeline of a model: from the front matter of its README.md, else from its config.json."""
    known = front_matter(folder / CARD)
    if "license" not in known and (folder / "config.json").is_file():
        known = {**known, "license": read_json(folder / "config.json").get("license")}
    return {key: known[key] for key in (*LICENCE, "pipeline_tag") if isinstance(known.get(key), str)}


def front_matter(file: Path) -> dict[str, Any]:
    """Return the YAML front matter of a model card; {} if there is none, or none that can be read."""
    text = file.read_text(encoding="utf-8-sig", errors="replace") if file.is_file() else ""
    head, _, rest = text.partition("\n")
    block, end, _ = rest.partition("\n---")
    if head.strip() != "---" or not end:
        return {}
    try:
        entries = yaml.safe_load(block)
    except yaml.YAMLError:
        return {}
    return entries if isinstance(entries, dict) else {}


def merged_licence(inputs: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the licence keys of the card: those of the inputs if all agree, `other` if they differ.

    {} if no input states a licence.
    """
    stated = [{key: model[key] for key in LICENCE if key in model} for model in inputs]
    if not any(stated):
        return {}
    if all(one == stated[0] for one in stated):
        return stated[0]
    return {"license": "other", "license_name": "licences-of-the-inputs"}


def metadata(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the YAML front matter of the card."""
    inputs = record["inputs"]
    base = inputs["base"]
    entries: dict[str, Any] = {"base_model": list(dict.fromkeys(model["title"] for model in inputs.values()))}
    entries |= {"base_model_relation": "merge", "tags": TAGS, "library_name": "transformers"}
    entries |= merged_licence(inputs.values())
    return entries | ({"pipeline_tag": base["pipeline_tag"]} if "pipeline_tag" in base else {})


def card(record: Mapping[str, Any]) -> str:
    """Return the model card of a record: Markdown with YAML front matter."""
    front = _yaml(metadata(record))
    sections = [f"# {record['name']}", _paragraph(record), "## Models", _models(record), *_licences(record)]
    sections += ["## Recipe", _recipe(record)]
    if record.get("notes"):
        sections += ["## How the models were brought together", "\n".join(f"- {note}" for note in record["notes"])]
    sections += ["## How to reproduce", _reproduce(record), "## Hashes", _hashes(record["inputs"])]
    return f"---\n{front}---\n\n" + "\n\n".join(sections) + "\n"


def _paragraph(record: Mapping[str, Any]) -> str:
    count, reference = len(record["inputs"]) - 1, record.get("reference")
    added = "the task vector of one fine-tuned model is" if count == 1 else f"the task vectors of {count} fine-tuned models are"
    paper = f" ([arXiv:{reference}](https://arxiv.org/abs/{reference}))" if reference else ""
    return (
        f"This model is a merge: to `{record['inputs']['base']['title']}` {added} added by the method"
        f" *{record.get('label', record['method'])}*{paper}. It was made with NAN-Merge, without training. What it can do was"
        " not measured here."
    )


def _models(record: Mapping[str, Any]) -> str:
    table = record["coefficients"]
    columns = {expert: [row[t] for row in table["rows"].values()] for t, expert in enumerate(table["experts"])}
    several = len(table["rows"]) > 1
    heads = [f"mean coefficient of {len(table['rows'])} {table['scope']}s", "smallest", "largest"] if several else ["coefficient"]
    lines = []
    for name, model in record["inputs"].items():
        values = columns.get(name, [])
        numbers = [sum(values) / len(values), min(values), max(values)] if values else []
        numbers = [f"{number:.6g}" for number in numbers[: len(heads)]] or [""] * len(heads)
        lines.append([name, f"`{model['title']}`", *numbers, model.get("license", "not stated")])
    return _table(["name", "model", *heads, "licence"], lines, numeric=range(2, 2 + len(heads)))


def _licences(record: Mapping[str, Any]) -> list[str]:
    licence = merged_licence(record["inputs"].values())
    if licence.get("license_name") != "licences-of-the-inputs" and licence:
        return []
    if not licence:
        return ["No input states a licence; find out under which terms they may be used before you pass this model on."]
    stated = [f"{name}: {' '.join(m[k] for k in LICENCE if k in m) or 'not stated'}" for name, m in record["inputs"].items()]
    return [f"The licences of the inputs differ, and each one binds this model: {'; '.join(stated)}."]


def _recipe(record: Mapping[str, Any]) -> str:
    settings = {key: record[key] for key in ("exclude", "seed", "dtype", "device") if record.get(key) not in (None, [])}
    return f"```yaml\n{_yaml({record['method']: dict(record['method_spec']), **settings})}```"


def _reproduce(record: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items())
    command = f"```console\n{record['command']}\n```\n\n" if record.get("command") else ""
    return f"{command}`{PROVENANCE}` holds every number that went in. Made with {versions or 'unknown versions'}."


def _hashes(inputs: Mapping[str, Mapping[str, Any]]) -> str:
    models = [[name, model.get("commit") or "", f"`{model['xxh3_128']}`"] for name, model in inputs.items()]
    known = [
        [name, file, f"{about['size']:,}", f"`{about['sha256']}`" if "sha256" in about else ""]
        for name, model in inputs.items()
        for file, about in model["files"].items()
    ]
    tensors = _table(["name", "commit", "XXH3-128 of the tensors that entered"], models)
    return f"{tensors}\n\n{_table(['name', 'file', 'bytes', 'SHA-256'], known, numeric=[2])}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], numeric: Iterable[int] = ()) -> str:
    rule = ["---:" if column in set(numeric) else "---" for column in range(len(heads))]
    lines = [heads, rule, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, default_flow_style=False, width=120)
