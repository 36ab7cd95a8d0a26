"""Document a merged model: provenance.json with all inputs of the merge, and the model card README.md.

The card is a function of the provenance. Neither holds a date, a host or a number of threads: the same merge gives the
same bytes. The card is for everyone: it names models by hub id and commit, or by the name of their folder, never by a path.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nan_merge.checkpoints.checkpoint import Checkpoint, module_of
from nan_merge.checkpoints.companions import MODULES
from nan_merge.checkpoints.digests import digests
from nan_merge.core.errors import UserError
from nan_merge.core.escape import code, code_block, markdown, yaml_text
from nan_merge.core.files import canonical, read_json, sha256, write_json
from nan_merge.core.shell import line, option
from nan_merge.core.text import front_matter as read_front_matter
from nan_merge.core.text import read_mapping
from nan_merge.layouts.adapter_configs import CONFIG as ADAPTER
from nan_merge.layouts.names import count_phrase
from nan_merge.methods.recipe import STAGES
from nan_merge.standalone.method import flow
from nan_merge.standalone.sources import Source, files

PROVENANCE, CARD = "provenance.json", "README.md"
ARXIV = re.compile(r"\d{4}\.\d{4,5}")
LICENCE = ("license", "license_name", "license_link")
LONGEST = 500  # characters of a value that another card states
TAGS = ["merge", "nan-merge"]
WITHOUT_SCORES = "This page does not say how well it does its tasks."  # until scores are exported into it
DEFAULTS = {  # of the command's options
    "vocabulary": "truncate", "missing": "error", "dtype": None, "device": "cpu", "compute": "float64", "seed": 0,
    "blas_threads": 1, "chat_template": None,
}  # fmt: skip
HEADS = (  # ends of an architecture in config.json for which transformers has an AutoModel
    "ForCausalLM", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering",
    "ForImageClassification",
)  # fmt: skip
LIBRARIES = ("transformers", "open_clip", "sentence-transformers", "peft")  # of the hub
CANONICAL = ("open_clip", "efficientnet_lite0_folded")  # model types of canonical checkpoints that no library loads as they are


def document(folder: Path, record: Mapping[str, Any]) -> None:
    """Write provenance.json and the model card of a merged model into its folder.

    `record` holds `name`, `method`, `method_spec`, `coefficients` (a table's record), `inputs` (by `origin`, the base
    first); optional are `label`, `reference`, `thresholds`, `set` (assignments `stage.operator.name=value` of the command
    line), `exclude`, `vocabulary`, `missing`, `seed`, `dtype`, `device`, `compute` (type of whole tensors), `blas_threads`,
    `chat_template`, `calibration`, `task`, `prepared` (whether models of a hub were brought into another layout first),
    `output_adapter` (a rank, or True), `adapter` (what such a merge holds and leaves out), `notes` and `versions`.
    """
    record = {**record, "loading": loading(folder)}
    write_json(folder / PROVENANCE, record)
    (folder / CARD).write_text(card(record), encoding="utf-8", errors="backslashreplace")


def digest(folder: Path) -> dict[str, Any]:
    """Return what identifies a merged model without its weights: SHA-256 of its files, XXH3-128 of its tensors, the documents."""
    weights = {folder / name: (module_of(name), *digests(folder / name)) for name in Checkpoint(folder).shards}
    return {
        "sha256": {f.relative_to(folder).as_posix(): weights[f][1] if f in weights else sha256(f) for f in _files(folder)},
        "tensors": {f"{module}{name}": found for module, _, tensors in weights.values() for name, found in tensors.items()},
        "provenance": read_json(folder / PROVENANCE),
        "card": (folder / CARD).read_text(encoding="utf-8"),
    }


def _files(folder: Path) -> list[Path]:
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    return [file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts)]


def origin(source: Source, digest: str) -> dict[str, Any]:
    """Describe one input: its place, files and licence, and the XXH3-128 digest of the tensors that entered."""
    place = {"hub": source.repo, "commit": source.commit} if source.repo else {"path": source.given}
    return {
        "title": source.title,
        **place,
        "xxh3_128": digest,
        "files": files(source.folder, source.repo is not None),
        **_about(source.folder),
    }


def _about(folder: Path) -> dict[str, str]:
    """Return licence and pipeline of a model: from the front matter of its README.md, else from its config.json."""
    known = front_matter(folder / CARD)
    if "license" not in known:
        known = {**known, "license": _config(folder).get("license")}
    return {key: known[key][:LONGEST] for key in (*LICENCE, "pipeline_tag") if isinstance(known.get(key), str)}


def loading(folder: Path) -> dict[str, str]:
    """Return the `library` that loads a model, and for transformers the classes of `model` and `tokenizer`, by its configs."""
    config = _config(folder)
    if (folder / ADAPTER).is_file():
        return {"library": "peft"}
    if (folder / MODULES).is_file():
        return {"library": "sentence-transformers"}
    if "model_type" not in config and (folder / "open_clip_config.json").is_file():
        return {"library": "open_clip"}
    if config.get("model_type") in (None, *CANONICAL):
        return {"library": "safetensors"}
    kinds = config.get("architectures")
    kind = str(kinds[0]).replace("LMHeadModel", "ForCausalLM") if isinstance(kinds, list) and kinds else "AutoModel"
    kind = kind if kind.isidentifier() else "AutoModel"
    found = {"library": "transformers", "model": next((f"AutoModel{end}" for end in HEADS if kind.endswith(end)), kind)}
    tokenizers = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.txt")
    return found | ({"tokenizer": "AutoTokenizer"} if any((folder / name).is_file() for name in tokenizers) else {})


def _config(folder: Path) -> dict[str, Any]:
    """Return config.json of a model; {} if there is none, or none that can be read: a document must not end a merge."""
    try:
        return read_mapping(folder / "config.json")
    except (UserError, OSError):
        return {}


def command(record: Mapping[str, Any], places: Mapping[str, str], output: str) -> str:
    """Return the command line that repeats a merge of the models at `places`, by name, an option a line.

    A merge that needs more than models is repeated by the workflow, which makes `output`.
    """
    if needs(record):
        return line(["snakemake", "--cores", "all", "--", output])
    options = [("--base", places["base"])]
    options += [("--expert", f"{name}={place}") for name, place in places.items() if name != "base"]
    method, assigned = record["method"], record.get("set", ())
    if "chosen" in record["coefficients"]:  # a tuned method: the command does not choose, it is told
        method, assigned = "task_arithmetic", _assignments(record["method_spec"])
    options += [("--method", method), *(("--set", assignment) for assignment in assigned)]
    options += [("--exclude", pattern) for pattern in record.get("exclude", ())]
    changed = {key: record[key] for key, default in DEFAULTS.items() if record.get(key, default) != default}
    options += [(f"--{key.replace('_', '-')}", str(value)) for key, value in changed.items()]
    lines = [option(key, value) for key, value in [*options, ("--output", output)]]
    if sizes := record.get("examples", record["coefficients"].get("examples")):
        lines.insert(-1, ["--examples", *(f"{name}={size}" for name, size in sizes.items())])
    if rank := record.get("output_adapter"):
        lines.insert(-1, ["--output-adapter", *([] if rank is True else [str(rank)])])
    return " \\\n    ".join(["nan-merge merge", *map(line, lines)])


def _assignments(method_spec: Mapping[str, Any]) -> Iterator[str]:
    """Yield the assignments that make any method this one."""
    for stage, entry in method_spec.items():
        ((operator, values),) = entry.items() if isinstance(entry, Mapping) else [(entry, None)]
        yield from [f"{stage}.{operator}.{key}={flow(value)}" for key, value in (values or {}).items()] or [f"{stage}={operator}"]


def needs(record: Mapping[str, Any]) -> str:
    """Return what a merge needs besides the models; empty if it needs nothing."""
    coefficients = record["method_spec"].get("coefficients")
    operator, values = next(iter(coefficients.items())) if isinstance(coefficients, Mapping) else (coefficients, None)
    if operator == "learned":
        return "coefficients that were learned on unlabelled test inputs"
    if record.get("calibration") or (values or {}).get("norm_of") == "calibration":
        return "calibration statistics of every expert"
    return f"the task that it is for, `{record['task']}`" if record.get("task") else ""


def front_matter(file: Path) -> dict[str, Any]:
    """Return the YAML front matter of a model card; {} if there is none, or none that can be read."""
    try:
        return read_front_matter(file)
    except (UserError, OSError):
        return {}


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
    entries |= {"base_model_relation": "merge", "tags": TAGS}
    if "adapter" in record:
        entries |= {"base_model": [base["title"]], "base_model_relation": "adapter"}
    library = record.get("loading", {}).get("library")
    entries |= {"library_name": library} if library in LIBRARIES else {}
    entries |= merged_licence(inputs.values())
    return entries | ({"pipeline_tag": base["pipeline_tag"]} if "pipeline_tag" in base else {})


def card(record: Mapping[str, Any]) -> str:
    """Return the model card of a record: Markdown with YAML front matter."""
    front = yaml_text(metadata(record))
    sections = [f"# {markdown(record['name'])}", _paragraph(record), "## Models", _models(record), *_licences(record)]
    sections += ["## Adapter", markdown(adapter_phrase(record["adapter"]))] if "adapter" in record else []
    sections += ["## Use", _use(record), "## Recipe", _recipe(record)]
    if record.get("notes"):
        sections += ["## How the models were brought together", "\n".join(f"- {markdown(note)}" for note in record["notes"])]
    sections += ["## How to reproduce", _reproduce(record), "## Hashes", _hashes(record["inputs"])]
    return f"---\n{front}---\n\n" + "\n\n".join(sections) + "\n"


def _paragraph(record: Mapping[str, Any]) -> str:
    count = len(record["inputs"]) - 1
    models = "one fine-tuned model" if count == 1 else f"{count} fine-tuned models"
    papers = ", ".join(
        f"[arXiv:{each}](https://arxiv.org/abs/{each})"
        for each in record.get("reference", "").split(", ")
        if ARXIV.fullmatch(each)
    )
    base, method = code(record["inputs"]["base"]["title"]), markdown(record.get("label", record["method"]))
    return (
        f"This model is a merge of {models} of {base} by the method *{method}*{f' ({papers})' if papers else ''}. It was made"
        f" with NAN-Merge. {WITHOUT_SCORES}"
    )


def adapter_phrase(adapter: Mapping[str, Any]) -> str:
    """Say what an adapter holds of the change that it stands for, and what of that the ranks do not hold."""
    (low, high), error = adapter["ranks"], adapter["error"]
    ranks = f"rank {high}" if low == high else f"ranks {low} to {high}"
    text = f"A LoRA adapter of {count_phrase(adapter['modules'], 'module')} with {ranks}"
    text += f", and {count_phrase(adapter['whole'], 'tensor')} stored whole." if adapter["whole"] else "."
    if not error["largest"]:
        return f"{text} Nothing of the change of these weights is left out but what float32 rounds off."
    return (
        f"{text} Of the change of these weights, the ranks leave out {error['total']:.3g} (relative, in the Frobenius norm"
        f" over all modules); the largest of one tensor is {error['largest']:.3g}, of {error['tensor']}."
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
        lines.append([markdown(name), code(model["title"]), *numbers, markdown(model.get("license", "not stated"))])
    return markdown_table(["name", "model", *heads, "licence"], lines, numeric=range(2, 2 + len(heads)))


def _licences(record: Mapping[str, Any]) -> list[str]:
    licence = merged_licence(record["inputs"].values())
    if licence.get("license_name") != "licences-of-the-inputs" and licence:
        return []
    if not licence:
        return ["No input states a licence; find out under which terms they may be used before you pass this model on."]
    stated = [f"{name}: {' '.join(m[k] for k in LICENCE if k in m) or 'not stated'}" for name, m in record["inputs"].items()]
    return [f"The licences of the inputs differ, and each one binds this model: {markdown('; '.join(stated))}."]


def _recipe(record: Mapping[str, Any]) -> str:
    keys = ("exclude", "seed", "dtype", "device", "compute", "blas_threads")
    settings = {key: record[key] for key in keys if record.get(key) not in (None, [])}
    stages = {stage: record["method_spec"][stage] for stage in STAGES if stage in record["method_spec"]}
    in_one_order = json.loads(canonical(list(stages.values())))
    return code_block(yaml_text({record["method"]: dict(zip(stages, in_one_order, strict=True)), **settings}), "yaml")


def _use(record: Mapping[str, Any]) -> str:
    """Return the lines of Python that load the model."""
    found, folder = record.get("loading", {}), json.dumps(record["name"])
    if found.get("library") == "transformers":
        classes = [found[key] for key in ("model", "tokenizer") if key in found]
        lines = [f"from transformers import {', '.join(sorted(classes))}", ""]
        lines += [f"{key} = {found[key]}.from_pretrained({folder})" for key in ("model", "tokenizer") if key in found]
    elif found.get("library") == "open_clip":
        place = json.dumps(f"local-dir:{record['name']}")
        lines = ["import open_clip", "", f"model, preprocess = open_clip.create_model_from_pretrained({place})"]
    elif found.get("library") == "peft":
        lines = ["from peft import PeftModel", "", f"model = PeftModel.from_pretrained(base, {folder})"]
        lines.insert(1, f"# `base` is {json.dumps(record['inputs']['base']['title'])}, as its library loads it")
    elif found.get("library") == "sentence-transformers":
        lines = ["from sentence_transformers import SentenceTransformer", "", f"model = SentenceTransformer({folder})"]
    else:
        file = json.dumps(f"{record['name']}/model.safetensors")
        lines = ["from safetensors.numpy import load_file", "", f"tensors = load_file({file})"]
    return f"{code(record['name'])} stands for the folder of this model.\n\n{code_block(chr(10).join(lines), 'python')}"


def _reproduce(record: Mapping[str, Any]) -> str:
    inputs = record["inputs"].items()
    places = {name: f"{model['hub']}@{model['commit']}" if "hub" in model else _beside(model["title"]) for name, model in inputs}
    local = [code(model["title"]) for _, model in inputs if "hub" not in model]
    text = f"{code_block(command(record, places, record['name']), 'console')}\n\n"
    if needs(record):
        text = f"The merge needs {needs(record)}, so only the workflow of NAN-Merge repeats it, with the config that made it.\n\n"
    elif local:
        text += f"Folders on the machine where it was made: {', '.join(local)}.\n\n"
    if record.get("prepared"):
        text += "Models of a hub entered as the workflow prepares them: the tensors of the encoder, in one layout.\n\n"
    versions = ", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items())
    return f"{text}`{PROVENANCE}` holds every number that went in. Made with {versions or 'unknown versions'}."


def _beside(title: str) -> str:
    """Return the place of a folder of this name in the current one: `~` alone would be another."""
    return f"./{title}" if title.startswith("~") else title


def _hashes(inputs: Mapping[str, Mapping[str, Any]]) -> str:
    models = [[markdown(name), model.get("commit") or "", f"`{model['xxh3_128']}`"] for name, model in inputs.items()]
    known = [
        [markdown(name), markdown(file), f"{about['size']:,}", f"`{about['sha256']}`" if "sha256" in about else ""]
        for name, model in inputs.items()
        for file, about in model["files"].items()
    ]
    tensors = markdown_table(["name", "commit", "XXH3-128 of the tensors that entered"], models)
    return f"{tensors}\n\n{markdown_table(['name', 'file', 'bytes', 'SHA-256'], known, numeric=[2])}"


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]], numeric: Iterable[int] = ()) -> str:
    """Return a table in Markdown, whose `numeric` columns are aligned to the right; cells are Markdown already."""
    rule = ["---:" if column in set(numeric) else "---" for column in range(len(heads))]
    lines = [heads, rule, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
