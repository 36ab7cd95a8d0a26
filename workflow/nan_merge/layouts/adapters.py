"""Fold LoRA adapters (Hu et al., arXiv 2106.09685; folders of the PEFT library) onto a base while it is read."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nan_merge.checkpoints.checkpoint import INDEX, PICKLE, PICKLE_INDEX, SINGLE, Checkpoint
from nan_merge.checkpoints.safetensors_file import Tensor
from nan_merge.core.errors import UserError
from nan_merge.core.files import read_json
from nan_merge.core.patterns import end_matches
from nan_merge.core.text import is_given
from nan_merge.layouts.names import HEAD, config, count_phrase, join_first, transposed
from nan_merge.layouts.renames import match_names, unwrapped
from nan_merge.layouts.ties import head_left_behind, tied_embedding
from nan_merge.layouts.views import LowRank, view

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
PREFIX = "base_model.model."
FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(?:\.(?!weight$)[^.]+)?(?:\.weight)?")
PATTERNS = {"r": "rank_pattern", "lora_alpha": "alpha_pattern"}  # keys of other values for some modules
LARGEST = 1e30  # of a rank or an alpha
PLAIN_INITIALISATIONS = (None, True, False, "gaussian", "orthogonal", "eva", "mica")  # other initialisations also change the base
REFUSED = {  # keys of adapter_config.json for which the folded weight is not W + s B A
    "use_dora": "DoRA rescales the folded weights",
    "use_qalora": "QALoRA pools the inputs",
    "use_bdlora": "block-diagonal factors are no matrices",
    "kasa_config": "KaSA has a diagonal between the factors",
    "arrow_config": "Arrow chooses among adapters for every token",
    "monteclora_config": "MonteCLoRA samples its factors",
    "alora_invocation_tokens": "activated LoRA is active only after certain tokens",
    "layer_replication": "the base lacks the replicated layers",
    "lora_bias": "the biases of lora_B are not folded",
    "trainable_token_indices": "trained rows are stored separately",
    "target_parameters": "adapters of bare parameters are not folded",
}


def is_adapter(folder: Path) -> bool:
    """Return whether a folder holds a PEFT adapter; raise UserError if it holds a whole model too."""
    if not is_given(folder / CONFIG):
        return False
    for file in (SINGLE, INDEX, PICKLE, PICKLE_INDEX):
        if (folder / file).is_file():
            raise UserError(f"{folder}: holds an adapter ({CONFIG}) and a whole model ({file}); move one of them elsewhere")
    return True


def fold_adapter(folder: Path, base: Checkpoint) -> tuple[Checkpoint, str]:
    """Open an adapter folder as a view of its base with the adapter added: (model, note for the user).

    A head that the base ties to its embedding is a tensor of its own in a model whose adapter changes it.
    Raises UserError for an adapter other than plain LoRA and for tensors that match none of the base.
    """
    record = _configuration(folder)
    file = next((folder / name for name in WEIGHTS if is_given(folder / name)), None)
    if file is None:
        raise UserError(f"{folder}: an adapter ({CONFIG}) without weights; expected {' or '.join(WEIGHTS)}")
    whole, factors = _sorted(Checkpoint(file).entries)
    modules = [module for module, _ in factors]
    ranks, alphas = (_values(folder / CONFIG, record, key, modules) for key in ("r", "lora_alpha"))
    names = [*whole, *(f"{module}.weight" for module, _ in factors)]
    note, new = match_names(names, base.names, config(base), lambda name: _is_saved(name, record) or bool(HEAD.search(name)))
    entries, lost = dict(base.entries), []
    for name, tensor in whole.items():
        place = new.get(name, name)
        if place in base.entries or _is_saved(name, record) or _tied_to(base, place, tensor.shape):
            entries[place] = tensor
        else:
            lost.append(f"'{name}' (the base has no such tensor)")
    stored_in_by_out = transposed(config(base), base.entries, unknown=bool(record.get("fan_in_fan_out")))
    for (module, embedding), pair in factors.items():
        place = new.get(f"{module}.weight", f"{module}.weight")
        tied = None if place in entries else _tied_to(base, place, _product(pair))
        origin = base.entries[tied] if tied else entries.get(place)
        rank = ranks[module]
        scale = alphas[module] / (math.sqrt(rank) if record.get("use_rslora") else rank)
        folded, reason = _fold(origin, pair, embedding or place in stored_in_by_out, rank, scale)
        if folded is None:
            lost.append(f"'{module}' ({reason})")
        else:
            entries[place] = folded
    if lost:
        raise UserError(
            f"{file}: {len(lost)} tensors of the adapter do not match the base {base.folder}: {join_first(lost)}. Its {CONFIG}"
            f" names {record.get('base_model_name_or_path') or 'no model'} as the base: use that one. If {base.folder} is that"
            " model, fold the adapter into it with PEFT (merge_and_unload) first"
        )
    if not record.get("ensure_weight_tying"):
        entries |= head_left_behind(base, entries, str(file))
    adapter = view(base, entries)
    adapter.folder = folder
    done = f"its LoRA adapter moves {count_phrase(len(factors), 'tensor')} of the base"
    done += f" and replaces {count_phrase(len(whole), 'tensor')}" if whole else ""
    return adapter, f"{done}; {note}" if note else done


def _tied_to(base: Checkpoint, name: str, shape: tuple[int, ...]) -> str | None:
    """Return the embedding that the base uses for a head, by its name or by its rows; None for anything else."""
    embedding = tied_embedding(base, shape) if len(shape) == 2 else None
    return embedding if embedding and (HEAD.search(name) or shape == base.shape(embedding)) else None


def _configuration(folder: Path) -> dict[str, Any]:
    """Read adapter_config.json; raise UserError for anything but plain LoRA."""
    file = folder / CONFIG
    record = read_json(file)
    kind = record.get("peft_type") if isinstance(record, dict) else None
    if kind != "LORA":
        raise UserError(f"{file}: `peft_type` is {kind}; expected LORA. Fold it into its base with PEFT (merge_and_unload) first")
    for key, reason in REFUSED.items():
        if record.get(key):
            raise UserError(f"{file}: `{key}` is set: {reason}. Fold it into its base with PEFT (merge_and_unload) first")
    start = record.get("init_lora_weights")
    if start not in PLAIN_INITIALISATIONS:
        raise UserError(
            f"{file}: `init_lora_weights` is {start}, which changes the base's weights too; save the adapter with PEFT's"
            " `path_initial_model_for_weight_conversion`, or fold it into its base first"
        )
    saved = record.get("modules_to_save") or []
    if not isinstance(saved, list) or not all(isinstance(module, str) for module in saved):
        raise UserError(f"{file}: `modules_to_save` is {saved!r}; expected a list of names")
    return record


def _values(file: Path, record: Mapping[str, Any], key: str, modules: Sequence[str]) -> dict[str, float]:
    """Return the rank or alpha of each module: that of the first pattern that matches its end, as in PEFT, or of `key`.

    Raises UserError for a value that is no number above 0, and for a regular expression that is none or takes too long.
    """
    kind = PATTERNS[key]
    patterns = record.get(kind) or {}
    if not isinstance(patterns, dict):
        raise UserError(f"{file}: `{kind}` is {patterns!r}; expected a number for each pattern")
    default = 8 if record.get(key) is None else record[key]
    for name, number in {key: default, **{f"{kind}: {pattern}": number for pattern, number in patterns.items()}}.items():
        if not isinstance(number, int | float) or not 0 < number < LARGEST:
            raise UserError(f"{file}: `{name}` is {number!r}; expected a number above 0")
    matched = end_matches([*patterns], modules, f"{file}: `{kind}`")
    return {module: next((n for pattern, n in patterns.items() if module in matched[pattern]), default) for module in modules}


def _sorted(entries: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[tuple[str, bool], dict[str, Tensor]]]:
    """Separate the tensors of an adapter: (whole tensors by name, {(module, is an embedding): {side: factor}})."""
    whole: dict[str, Tensor] = {}
    factors: dict[tuple[str, bool], dict[str, Tensor]] = {}
    for name, tensor in entries.items():
        plain = unwrapped(name).removeprefix(PREFIX)
        if factor := FACTOR.fullmatch(plain):
            factors.setdefault((factor["module"], bool(factor["embedding"])), {})[factor["side"]] = tensor
        else:
            whole[re.sub(r"\.(base_layer|modules_to_save(\.default)?)\.", ".", plain)] = tensor
    return whole, factors


def _product(pair: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Return the shape of B A; () if one of both is missing or not a matrix."""
    matrices = pair.keys() == {"A", "B"} and all(len(factor.shape) > 1 for factor in pair.values())
    return (pair["B"].shape[0], *pair["A"].shape[1:]) if matrices else ()


def _fold(
    base: Tensor | None, pair: Mapping[str, Tensor], transposed: bool, rank: float, scale: float
) -> tuple[LowRank | None, str]:
    """Fold a pair of factors onto its tensor: (tensor, ""), or (None, reason).

    `transposed` says how a square tensor is stored; the shape of another one tells. PEFT looks at the kind of each module
    too, and `fan_in_fan_out` of the config is that of the module that it came to last.
    """
    if base is None:
        return None, "the base has no such tensor"
    if pair.keys() != {"A", "B"}:
        return None, f"it has only lora_{next(iter(pair))}"
    a, b, product = pair["A"], pair["B"], _product(pair)
    if not product or b.shape[1] != a.shape[0] or math.prod(b.shape[2:]) != 1:
        return None, f"lora_A {list(a.shape)} and lora_B {list(b.shape)} cannot be multiplied"
    if rank != a.shape[0]:
        return None, f"its rank is {a.shape[0]}, {CONFIG} has {rank}"
    if product != product[::-1]:
        transposed = len(product) == 2 and base.shape == product[::-1]
    if base.shape != (product[::-1] if transposed else product) or not base.is_float:
        return None, f"B A is {list(product)}, the tensor {base.dtype} {list(base.shape)}"
    return LowRank("F64" if base.dtype == "F64" else "F32", base.shape, base, a, b, scale, transposed), ""


def _is_saved(name: str, record: Mapping[str, Any]) -> bool:
    """Return whether a whole tensor belongs to a module of `modules_to_save`, such as a new head."""
    modules = [name[:i] for i, letter in enumerate(name) if letter == "."]
    return any(f".{module}".endswith(f".{saved}") for module in modules for saved in record.get("modules_to_save") or ())
