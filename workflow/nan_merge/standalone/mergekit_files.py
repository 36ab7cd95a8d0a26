"""What a mergekit config says of files of its models: numbers of layers, tokenizers and the chat template."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nan_merge.core.errors import UserError
from nan_merge.core.files import read_json, sha256
from nan_merge.layouts.names import count_phrase, join_first, setting
from nan_merge.standalone.mergekit_import import MergekitConfig

LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")  # keys of config.json
TOKENIZER = (
    "tokenizer_config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer.model", "added_tokens.json", "vocab.json",
    "merges.txt", "vocab.txt",
)  # fmt: skip
TEMPLATE = "chat_template.jinja"  # the file in which transformers looks first


@dataclass(frozen=True)
class Files:
    """The chat template that the output gets in place of the base's, and notes for the user."""

    chat_template: str | None = None
    notes: tuple[str, ...] = ()


def check(request: MergekitConfig, folders: Mapping[str, Path], where: str) -> Files:
    """Compare a config with the folders of its models, `base` and the experts by name.

    Raises UserError where the output of mergekit has other layers than the base, or other rows of the embedding.
    """
    _check_layers(request, folders["base"], where)
    notes = _check_tokenizer(request.tokenizer, folders, where) if request.tokenizer else []
    return Files(_chat_template(request.chat_template, folders, where), tuple(notes))


def _json(file: Path) -> dict[str, Any]:
    record = read_json(file) if file.is_file() else {}
    return record if isinstance(record, dict) else {}


def _check_layers(request: MergekitConfig, base: Path, where: str) -> None:
    record = _json(base / "config.json")
    found = next((value for key in LAYERS if (value := setting(record, key)) is not None), None)
    if request.layers is not None and found is not None and found != request.layers:
        raise UserError(
            f"{where}: slices: they take {count_phrase(request.layers, 'layer')} of every model, and the base {base} has {found}."
            " A file that stacks or leaves out layers makes another network, which is not supported"
        )


def _check_tokenizer(source: str, folders: Mapping[str, Path], where: str) -> list[str]:
    """Check that the tokenizer of the output has the tokens of the base, with the same numbers in every model."""
    base, *others = ((name, _vocabulary(folder)) for name, folder in sorted(folders.items(), key=lambda each: each[0] != "base"))
    own, key = base[1], f"{where}: tokenizer_source: {source}"
    for name, tokens in ((name, tokens) for name, tokens in others if own and tokens):  # without one, mergekit takes the base's
        moved = [token for token in tokens if own.get(token, tokens[token]) != tokens[token]]
        if moved:
            raise UserError(
                f"{key}: {count_phrase(len(moved), 'token')} of '{name}' have other numbers than in the base:"
                f" {join_first([repr(each) for each in moved], 3)}. Their rows would have to be exchanged, which is not supported"
            )
        differ = [*(tokens.keys() - own.keys()), *(own.keys() - tokens.keys() if source == name else ())]
        if differ and source in (name, "union"):
            raise UserError(
                f"{key}: '{name}' and the base differ in {count_phrase(len(differ), 'token')}:"
                f" {join_first(sorted(map(repr, differ)), 3)}. Here the output has the base's rows; set `tokenizer_source: base`"
            )
    notes = []
    if own and (rows := setting(_json(folders["base"] / "config.json"), "vocab_size")) and rows > len(own):
        notes.append(f"{source}: mergekit drops rows of the embedding without a token; here the {rows} rows of the base stay")
    own_files = folders.get(source, folders["base"])
    if files := [name for name in TOKENIZER if _digest(own_files / name) != _digest(folders["base"] / name)]:
        notes.append(f"the output has the files of the base, with the same tokens; '{source}' has another {', '.join(files)}")
    return [f"tokenizer_source: {note}" for note in notes]


def _digest(file: Path) -> str:
    return sha256(file) if file.is_file() else ""


def _vocabulary(folder: Path) -> dict[str, int]:
    """Return the number of every token of a tokenizer; {} if there is none that can be read."""
    record = _json(folder / "tokenizer.json")
    model = record.get("model", {}).get("vocab", {})
    if record:
        tokens = model if isinstance(model, dict) else {entry[0]: number for number, entry in enumerate(model)}
        return {**tokens, **{entry["content"]: entry["id"] for entry in record.get("added_tokens", ())}}
    tokens = _json(folder / "vocab.json")
    if (folder / "vocab.txt").is_file():
        lines = (folder / "vocab.txt").read_text(encoding="utf-8", errors="replace").split("\n")
        tokens = {token: number for number, token in enumerate(lines) if token}
    if (folder / "tokenizer.model").is_file():  # SentencePiece: the same file, or another vocabulary
        tokens = {f"tokenizer.model {_digest(folder / 'tokenizer.model')[:12]}": 0}
    return {**tokens, **_json(folder / "added_tokens.json")}


def _chat_template(wanted: str | None, folders: Mapping[str, Path], where: str) -> str | None:
    """Return the chat template of the output, None where it is that of the base."""
    if not wanted:
        return None
    if not isinstance(wanted, str) or (wanted != "auto" and (len(wanted) < 20 or "{" not in wanted)):
        raise UserError(
            f"{where}: chat_template: {wanted!r} is not supported; supported are `auto` and a template in Jinja. If it is the"
            " name of a template that mergekit brings along, write the template itself"
        )
    templates = {name: template_of(folder) for name, folder in folders.items()}
    if wanted == "auto":
        found = Counter(filter(None, templates.values())).most_common(1)
        wanted = found[0][0] if found else ""
    return wanted if wanted and wanted != templates["base"] else None


def template_of(folder: Path) -> str:
    """Return the chat template of a model; empty if it has none."""
    if (folder / TEMPLATE).is_file():
        return (folder / TEMPLATE).read_text(encoding="utf-8").strip()
    found = _json(folder / "tokenizer_config.json").get("chat_template") or ""
    if isinstance(found, list):  # several by name
        found = next((entry["template"] for entry in found if entry.get("name") == "default"), "")
    return str(found).strip()
