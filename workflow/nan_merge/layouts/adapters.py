"""Fold LoRA and DoRA adapters (arXiv 2106.09685, 2402.09353; folders of the PEFT library) onto a base while it is read."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nan_merge.checkpoints.checkpoint import INDEX, PICKLE, PICKLE_INDEX, SINGLE, Checkpoint
from nan_merge.checkpoints.safetensors_file import Tensor
from nan_merge.core.errors import UserError
from nan_merge.core.text import is_given
from nan_merge.layouts.adapter_configs import CONFIG, configuration, is_saved, new_rows, values
from nan_merge.layouts.names import HEAD, config, count_phrase, join_first, transposed
from nan_merge.layouts.renames import match_names, unwrapped
from nan_merge.layouts.ties import head_left_behind, tied_embedding
from nan_merge.layouts.updates import LowRank, Moved, NewRows, WithNorms
from nan_merge.layouts.views import equal, view

WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
PREFIX = "base_model.model."
PART = re.compile(  # of the adapter of one module; `lora_A.default.weight` is that of the adapter `default`
    r"(?P<module>.+)\.lora_(?P<table>embedding_)?(?P<side>[AB]|magnitude_vector)(\.(?!weight$|bias$)[^.]+)?(\.weight|(?P<bias>\.bias))?"
)
ROWS = re.compile(r"(?P<module>.+)\.token_adapter\.trainable_tokens_delta(\.[^.]+)?")
FACTORS, NORMS, BIAS, TABLE = ("A", "B"), "magnitude_vector", "B.bias", "table"  # parts of an adapter; the last is a mark
FOLD = "fold it into its base with PEFT (merge_and_unload) first"


@dataclass(frozen=True)
class Adapter:
    """What is known of a folded adapter: its adapter_config.json, and its names of the tensors that it moves, by the base's."""

    record: Mapping[str, Any]
    names: Mapping[str, str]


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
    Raises UserError for an adapter other than LoRA and DoRA and for tensors that match none of the base.
    """
    record = configuration(folder)
    file = next((folder / name for name in WEIGHTS if is_given(folder / name)), None)
    if file is None:
        raise UserError(f"{folder}: an adapter ({CONFIG}) without weights; expected {' or '.join(WEIGHTS)}")
    whole, parts, rows = _sorted(Checkpoint(file).entries)
    names = [*whole, *(f"{module}.weight" for module in (*parts, *rows))]
    names += [f"{module}.bias" for module, pair in parts.items() if BIAS in pair]
    note, new = match_names(names, base.names, config(base), lambda name: is_saved(name, record) or bool(HEAD.search(name)))
    folded = _Folded(folder, base, record, new)
    for name, tensor in whole.items():
        folded.replace(name, tensor)
    folded.add(parts)
    for module, tensor in rows.items():
        folded.insert(module, tensor)
    if folded.lost:
        raise UserError(
            f"{file}: {len(folded.lost)} tensors of the adapter do not match the base {base.folder}: {join_first(folded.lost)}."
            f" Its {CONFIG} names {record.get('base_model_name_or_path') or 'no model'} as the base: use that one. If"
            f" {base.folder} is that model, {FOLD}"
        )
    if not record.get("ensure_weight_tying"):
        folded.entries |= head_left_behind(base, {**folded.entries, **folded.tied}, str(file))
    adapter = view(base, folded.entries)
    adapter.folder, adapter.adapter = folder, Adapter(record, folded.names)
    done = f"its LoRA adapter moves {count_phrase(len(parts), 'tensor')} of the base"
    done += f" and replaces {count_phrase(len(whole), 'tensor')}" if whole else ""
    done += f", and {count_phrase(sum(tensor.shape[0] for tensor in rows.values()), 'row')} of an embedding" if rows else ""
    return adapter, f"{done}; {note}" if note else done


@dataclass
class _Folded:
    """The tensors of a base with an adapter, as far as it is folded: `lost` are parts without a place, with the reason."""

    folder: Path
    base: Checkpoint
    record: Mapping[str, Any]
    new: Mapping[str, str]  # names of the base by those of the adapter

    def __post_init__(self) -> None:
        """Begin with the tensors of the base."""
        self.entries: dict[str, Tensor] = dict(self.base.entries)
        self.lost: list[str] = []
        self.names: dict[str, str] = {}  # those of the adapter by those of the base, of all that it moves
        self.tied: dict[str, Tensor] = {}  # embeddings whose head moves along, with the base's tensor

    def place(self, name: str) -> str:
        """Return the base's name of a tensor of the adapter, and remember the adapter's."""
        place = self.new.get(name, name)
        self.names[place] = name
        return place

    def replace(self, name: str, tensor: Tensor) -> None:
        """Put a tensor that was trained whole into its place."""
        place = self.place(name)
        if place in self.base.entries or is_saved(name, self.record) or _tied_to(self.base, place, tensor.shape):
            self.entries[place] = tensor
        else:
            self.lost.append(f"'{name}' (the base has no such tensor)")

    def add(self, parts: Mapping[str, Mapping[str, Any]]) -> None:
        """Add the products of factors, and the biases of B."""
        ranks, alphas = (values(self.folder / CONFIG, self.record, key, [*parts]) for key in ("r", "lora_alpha"))
        unknown = bool(self.record.get("fan_in_fan_out"))
        stored_in_by_out = transposed(config(self.base), self.base.entries, unknown=unknown)
        for module, pair in parts.items():
            place, rank = self.place(f"{module}.weight"), ranks[module]
            scale = alphas[module] / (math.sqrt(rank) if self.record.get("use_rslora") else rank)
            turned = TABLE in pair or place in stored_in_by_out
            plain, reason = _fold(self._below(place, pair), pair, module, turned, rank, scale)
            folded: Tensor | None = None
            if plain is not None:
                folded, reason = _with_norms(plain, pair, bool(self.record.get("use_dora")))
            bias = self.entries.get(self.place(f"{module}.bias")) if BIAS in pair else None
            if BIAS in pair and (bias is None or bias.shape != pair[BIAS].shape):
                reason = "it moves a bias that the base lacks or has in another shape"
            if reason or folded is None:
                self.lost.append(f"'{module}' ({reason})")
                continue
            self.entries[place] = folded
            if bias is not None:
                self.entries[self.place(f"{module}.bias")] = Moved(_wide(bias), bias.shape, bias, pair[BIAS], scale)

    def _below(self, place: str, pair: Mapping[str, Any]) -> Tensor | None:
        """Return the tensor that factors are added to: the base's, also for the copy of it that PEFT saves beside them."""
        tied = None if place in self.base.entries else _tied_to(self.base, place, _product(pair))
        own = self.base.entries.get(tied or place)
        stored = self.entries.get(place, own)
        return own if stored is not None and own is not None and equal(stored, own) else stored

    def insert(self, module: str, rows: Tensor) -> None:
        """Put trained rows into an embedding; a head that is tied to it stays tied, as in PEFT."""
        place = self.place(f"{module}.weight")
        origin = self.entries.get(place)
        if origin is None or len(origin.shape) != 2 or origin.shape[1:] != rows.shape[1:]:
            self.lost.append(f"'{module}' (its {list(rows.shape)} rows fit no table of the base)")
            return
        places = new_rows(self.folder / CONFIG, self.record, module, rows.shape[0], origin.shape[0])
        if place in self.base.entries and origin is self.base.entries[place]:
            self.tied[place] = origin
        self.entries[place] = NewRows(_wide(origin), origin.shape, origin, rows, places)


def _tied_to(base: Checkpoint, name: str, shape: tuple[int, ...]) -> str | None:
    """Return the embedding that the base uses for a head, by its name or by its rows; None for anything else."""
    embedding = tied_embedding(base, shape) if len(shape) == 2 else None
    return embedding if embedding and (HEAD.search(name) or shape == base.shape(embedding)) else None


def _sorted(entries: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]], dict[str, Tensor]]:
    """Separate the tensors of an adapter: (whole tensors by name, parts by module, rows of embeddings by module)."""
    whole: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Any]] = {}
    rows: dict[str, Tensor] = {}
    for name, tensor in entries.items():
        plain = unwrapped(name).removeprefix(PREFIX)
        if part := PART.fullmatch(plain):
            pair = parts.setdefault(part["module"], {})
            pair[part["side"] + (part["bias"] or "")] = tensor
            pair |= {TABLE: True} if part["table"] else {}
        elif part := ROWS.fullmatch(plain):
            rows[part["module"]] = tensor
        else:
            whole[re.sub(r"\.(base_layer|modules_to_save(\.default)?)\.", ".", plain)] = tensor
    return whole, parts, rows


def _wide(origin: Tensor) -> str:
    """Return the type in which an update of a tensor is computed."""
    return "F64" if origin.dtype == "F64" else "F32"


def _product(pair: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the shape of B A; () if one of both is missing or not a matrix."""
    matrices = all(side in pair and len(pair[side].shape) > 1 for side in FACTORS)
    return (pair["B"].shape[0], *pair["A"].shape[1:]) if matrices else ()


def _fold(
    base: Tensor | None, pair: Mapping[str, Any], module: str, transposed: bool, rank: float, scale: float
) -> tuple[LowRank | None, str]:
    """Fold a pair of factors onto its tensor: (tensor, ""), or (None, reason).

    `transposed` says how a square tensor is stored; the shape of another one tells. PEFT looks at the kind of each module
    too, and `fan_in_fan_out` of the config is that of the module that it came to last.
    """
    if base is None:
        return None, "the base has no such tensor"
    if any(side not in pair for side in FACTORS):
        return None, f"it has only {' and '.join(f'lora_{side}' for side in pair if side != TABLE)}"
    a, b, product = pair["A"], pair["B"], _product(pair)
    if not product or b.shape[1] != a.shape[0] or math.prod(b.shape[2:]) != 1:
        return None, f"lora_A {list(a.shape)} and lora_B {list(b.shape)} cannot be multiplied"
    if rank != a.shape[0]:
        return None, f"its rank is {a.shape[0]}, {CONFIG} has {rank}"
    if product != product[::-1]:
        transposed = len(product) == 2 and base.shape == product[::-1]
    if base.shape != (product[::-1] if transposed else product) or not base.is_float:
        return None, f"B A is {list(product)}, the tensor {base.dtype} {list(base.shape)}"
    return LowRank(_wide(base), base.shape, base, a, b, scale, transposed, module, TABLE in pair), ""


def _with_norms(folded: LowRank, pair: Mapping[str, Any], dora: bool) -> tuple[Tensor | None, str]:
    """Give a folded tensor the norms that DoRA trained, if it did: (tensor, ""), or (None, reason)."""
    norms, outputs = pair.get(NORMS), folded.b.shape[0]
    if norms is None and not dora:
        return folded, ""
    if norms is None or not dora or norms.size != outputs:
        found = "none" if norms is None else list(norms.shape)
        return None, f"`use_dora` of {CONFIG} is {str(dora).lower()}, its lora_magnitude_vector {found}, its outputs {outputs}"
    exact = replace(folded, dtype="F64")
    return WithNorms(folded.dtype, folded.shape, exact, norms, folded.transposed), ""
