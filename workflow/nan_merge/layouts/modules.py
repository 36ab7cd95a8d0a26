"""Read what sentence-transformers does behind a network: the modules of modules.json and their configs, prompts, similarity."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nan_merge.checkpoints.checkpoint import PICKLE, SINGLE, Checkpoint, module_of
from nan_merge.checkpoints.companions import MODULES, is_inside
from nan_merge.core.errors import UserError
from nan_merge.core.text import read_json, read_mapping

SETTINGS = "config_sentence_transformers.json"
DEFAULT = ("Transformer", "Pooling (mean)")  # of a folder without modules.json, as the library has it for encoders
LEGACY = {  # keys of a pooling's config before sentence-transformers 6 -> its modes
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
DENSE = ("in_features", "out_features", "bias", "activation_function")
KINDS = (
    "Transformer", "Pooling", "Dense", "Normalize", "Dropout", "LayerNorm", "WeightedLayerPooling", "LSTM", "CNN", "BoW",
    "WordEmbeddings", "WordWeights", "StaticEmbedding", "CLIPModel", "Router", "Asym",
)  # fmt: skip
LIBRARY = "sentence_transformers"  # where these are: those of other packages are code, which is not run
IGNORED = "Normalize"  # does not change a cosine


def modules(folder: Path) -> list[str]:
    """Return what a model does with a text, in words: modules in their order, prompts, a similarity other than the cosine.

    A Normalize is left out where the similarity is the cosine. Raises UserError for files of another form.
    """
    settings = read_mapping(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    similarity = settings.get("similarity_fn_name") or "cosine"
    found = _modules(folder) if (folder / MODULES).is_file() else [*DEFAULT]
    prompts = settings.get("prompts") or {}
    if not isinstance(prompts, Mapping) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise UserError(
            f"{folder / SETTINGS}: prompts {prompts!r:.80}; expected a mapping with a text for each name; fetch the model again"
        )
    return [
        *(each for each in found if each != IGNORED or similarity != "cosine"),
        *(f"prompt {name} {text!r}" for name, text in sorted(prompts.items()) if text),
        *([f"similarity {similarity}"] if similarity != "cosine" else []),
    ]


def difference(expert: Path, base: Path) -> str:
    """Say in what the modules of an expert differ from those of its base; empty if in nothing."""
    one, two = modules(expert), modules(base)
    if one == two:
        return ""
    default = "" if (base / MODULES).is_file() else f", which are those of a folder without {MODULES}"
    return f"its modules are {', '.join(one)}; those of the base {base} are {', '.join(two)}{default}"


def check(base: Path, model: Checkpoint) -> None:
    """Raise UserError for modules of a base that the library has not, and a model without the weights of its dense layers.

    The model is the base itself or an expert. Raises as `modules` does for files of another form.
    """
    modules(base)
    for path, kind in _entries(base) if (base / MODULES).is_file() else ():
        package, name = kind.partition(".")[0], kind.rpartition(".")[2]
        if package != LIBRARY or name not in KINDS:
            raise UserError(
                f"{base / MODULES}: type {kind!r}; expected a module of {LIBRARY}, {', '.join(KINDS)}; take another model as"
                " `base:`"
            )
        if name == "Dense" and f"{path.strip('/')}/" not in map(module_of, model.shards):
            raise UserError(
                f"{model.folder}: no weights of the dense layer {path!r}; expected {path}/{SINGLE} or {path}/{PICKLE}. Name them"
                " in `members:` of the asset, and lock it again"
            )


def module_note(name: str, expert: Path, base: Path) -> list[str]:
    """Say that a merge has the modules of the base, where those that an expert names differ and can be read."""
    with contextlib.suppress(UserError):  # a merge reads weights alone
        if (expert / MODULES).is_file() and (found := difference(expert, base)):
            return [f"expert '{name}': {found}. The merge has those of the base"]
    return []


def _modules(folder: Path) -> list[str]:
    return [_described(folder, path, kind.rpartition(".")[2]) for path, kind in _entries(folder)]


def _entries(folder: Path) -> list[tuple[str, str]]:
    """Return the path and the type of each module."""
    entries = read_json(folder / MODULES)
    listed = (entries if isinstance(entries, list) else []) or [None]
    if not all(isinstance(each, Mapping) and all(isinstance(each.get(key), str) for key in ("path", "type")) for each in listed):
        raise UserError(f"{folder / MODULES}: no list of modules; expected `path` and `type` of each; fetch the model again")
    return [(each["path"], each["type"]) for each in entries]


def _described(folder: Path, path: str, kind: str) -> str:
    """Return the kind of a module with what its config says of a pooling or a dense layer."""
    configured = kind in ("Pooling", "Dense")
    if not is_inside(path) and (path or configured):
        raise UserError(f"{folder / MODULES}: path {path!r} of {kind} is no sub-folder of the model; fetch the model again")
    if not configured:
        return kind
    config = read_mapping(file := folder / path / "config.json")
    return f"{kind} ({_pooling(config, file) if kind == 'Pooling' else ', '.join(f'{key} {config.get(key)}' for key in DENSE)})"


def _pooling(config: Mapping[str, Any], file: Path) -> str:
    given = config.get("pooling_mode", [mode for key, mode in LEGACY.items() if config.get(key)] or "mean")
    modes = [given] if isinstance(given, str) else given
    if not modes or not isinstance(modes, list) or not all(mode in LEGACY.values() for mode in modes):
        known = ", ".join(LEGACY.values())
        raise UserError(f"{file}: pooling_mode {given!r:.80}; expected one or several of {known}; fetch the model again")
    return "+".join(modes) + ("" if config.get("include_prompt", True) else ", without the prompt")
