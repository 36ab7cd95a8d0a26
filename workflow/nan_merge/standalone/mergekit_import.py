"""Translate mergekit's YAML into method specs, for the methods that both projects have.

The meaning of each key is that of mergekit 0.1.5 (`config.py`, `plan.py`, `merge_methods/linear.py`,
`generalized_task_arithmetic.py`, `sparsify.py`). A key without a counterpart is a UserError that names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nan_merge.core.errors import UserError
from nan_merge.standalone.mergekit_methods import around_a_model, around_base, method_spec_of
from nan_merge.standalone.mergekit_models import read_settings, reference
from nan_merge.standalone.mergekit_parameters import DARE_LINEAR, DARE_TIES, LINEAR, TASK_ARITHMETIC, TIES, known
from nan_merge.standalone.sources import local, short_names

HOSTS = {  # the closest method of config/methods.yaml
    LINEAR: "weight_averaging",
    TASK_ARITHMETIC: "task_arithmetic",
    TIES: "ties",
    DARE_LINEAR: "dare",
    DARE_TIES: "dare_ties",
}
KEYS = (
    "merge_method", "models", "slices", "base_model", "parameters", "dtype", "out_dtype", "tokenizer_source", "tokenizer",
    "chat_template",
)  # fmt: skip  # fmt: skip
TYPES = ("float16", "bfloat16", "float32", "float64")
OTHER_TOOLS = {  # keys of the files of mergekit's other commands
    "gate_mode": "it is for mergekit-moe, which builds a mixture of experts out of the models and merges none",
    "experts": "it is for mergekit-moe, which builds a mixture of experts out of the models and merges none",
    "genome": "it is for mergekit-evolve, which searches for a config by evaluations",
}
OTHER_METHODS = {"passthrough": "it stacks layers of models and merges none"}


@dataclass(frozen=True)
class MergekitConfig:
    """A mergekit file as a method spec; `notes` list the differences."""

    host: str
    base: str
    experts: dict[str, str]  # name -> folder or hub id
    method_spec: dict[str, Any]
    dtype: str | None
    notes: tuple[str, ...]
    tokenizer: str | None = None  # `base`, `union`, or the name of a model
    chat_template: str | None = None
    layers: int | None = None  # that `slices` take of every model


def translate(config: Any, where: str, merged: Mapping[str, str] | None = None) -> MergekitConfig:
    """Translate the content of a mergekit file; `where` names the file in messages.

    `merged` are the folders of earlier documents of the same file, by their names, which stand for models here.
    Raises UserError for a key, a method or a value without a counterpart.
    """
    if isinstance(config, Mapping) and (key := next((key for key in OTHER_TOOLS if key in config), None)):
        raise UserError(f"{where}: `{key}`: {OTHER_TOOLS[key]}; it is not supported")
    if not isinstance(config, Mapping) or "merge_method" not in config:
        raise UserError(f"{where}: no mergekit file; expected `merge_method` and `models`")
    if "modules" in config:
        raise UserError(
            f"{where}: `modules` is not supported, since models are merged whole here, by one method; if it holds one module,"
            " write its `models` or `slices` and its `parameters` without it"
        )
    known(where, config, KEYS)
    method = config["merge_method"]
    if not isinstance(method, str) or method not in HOSTS:
        reason = f": {OTHER_METHODS[method]}" if isinstance(method, str) and method in OTHER_METHODS else ""
        raise UserError(f"{where}: merge_method: '{method}' is not supported{reason}; supported are {', '.join(HOSTS)}")
    settings = read_settings(config, where, merged or {})
    base, weights = (around_a_model if method == LINEAR else around_base)(config, settings)
    if "+" in base and not local(base).is_dir():
        which = "" if settings.base else ", the first of `models` since there is no `base_model`,"
        raise UserError(
            f"{where}: the base {base!r}{which} is not supported; supported is a folder or a hub id, without an adapter: write"
            f" `base_model: {base.partition('+')[0]}`"
        )
    places = {model: _adapter(model, base, where) for model in weights if model != base}
    names = dict(sorted(zip(short_names([*places.values()]), places, strict=True)))
    method_spec, notes = method_spec_of(method, settings, names, weights)
    dtype, more = _dtype(config, where)
    experts = {name: places[model] for name, model in names.items()}
    names_of = {model: name for name, model in names.items()} | {base: "base"}
    return MergekitConfig(
        HOSTS[method], base, experts, method_spec, dtype, (*notes, *more), _tokenizer(config, names_of, where, merged or {}),
        config.get("chat_template"), settings.slices[-1].layers[1] if settings.slices[-1].layers else None,
    )  # fmt: skip


def _tokenizer(config: Mapping[str, Any], names: Mapping[str, str], where: str, merged: Mapping[str, str]) -> str | None:
    """Return whose tokenizer the output gets: `base`, `union`, the name of a model, or None where the file says nothing."""
    if config.get("tokenizer") is None and config.get("tokenizer_source") is None:
        return None
    key, entry = "tokenizer_source", config.get("tokenizer_source")
    if config.get("tokenizer") is not None:
        if entry is not None or not isinstance(config["tokenizer"], Mapping):
            raise UserError(f"{where}: tokenizer: expected `source: base`, `union` or a model, and no `tokenizer_source` besides")
        known(f"{where}: tokenizer", config["tokenizer"], ("source", "tokens", "pad_to_multiple_of"))
        extra = [k for k in config["tokenizer"] if k != "source" and config["tokenizer"][k] not in (None, {})]
        if extra:
            raise UserError(
                f"{where}: tokenizer: `{extra[0]}` is not supported, since it changes rows of the embedding; remove it"
            )
        key, entry = "tokenizer: source", config["tokenizer"].get("source", "union")
    if entry in ("base", "union"):
        return str(entry)
    model = reference(entry, f"{where}: {key}", merged)
    if model not in names:
        raise UserError(f"{where}: {key}: {model!r} is none of the models; expected base, union or one of {', '.join(names)}")
    return names[model]


def _dtype(config: Mapping[str, Any], where: str) -> tuple[str | None, list[str]]:
    types = {key: str(config[key]).removeprefix("torch.") for key in ("dtype", "out_dtype") if config.get(key) is not None}
    for key, name in types.items():
        if name not in TYPES:
            raise UserError(f"{where}: {key}: '{name}' is not supported; supported are {', '.join(TYPES)}")
    computed = types.get("dtype", "the type of the files")
    note = f"dtype: mergekit computes in {computed}; here it is float32 or wider, rounded once"
    return types.get("out_dtype", types.get("dtype")), [] if computed in ("float32", "float64") else [note]


def _adapter(model: str, base: str, where: str) -> str:
    """Read `model+adapter`: the place of the adapter, which is trained on the base; a folder of that name is a model."""
    if "+" not in model or local(model).is_dir():
        return model
    if not model.startswith(f"{base}+"):
        raise UserError(
            f"{where}: models: {model}: its adapter was trained on another model than the base {base}; merge it first"
        )
    return model.removeprefix(f"{base}+")
