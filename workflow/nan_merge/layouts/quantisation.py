"""Tell quantised models, which cannot be merged, from plain ones with a left-over label."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nan_merge.checkpoints.checkpoint import WEIGHTS, Checkpoint
from nan_merge.checkpoints.safetensors_file import Tensor
from nan_merge.core.errors import UserError
from nan_merge.layouts.names import config, is_buffer

PACKED = re.compile(  # names of tensors that only quantised models have, by format
    r"[.:](qweight|qzeros|g_idx"  # GPTQ, AWQ
    r"|absmax|nested_absmax|quant_map|nested_quant_map|quant_state\.\w+|SCB|weight_format"  # bitsandbytes
    r"|weight_packed|weight_zero_point|weight_shape"  # compressed-tensors
    r"|weight_scale_2|weight_scale_inv|scale_inv"  # ModelOpt, FP8 by blocks
    r"|W_q|codebooks|q_weight|q_invperm|trellis|weight\._data|\w*qdata)$"  # HQQ, AQLM, ExLlama, quanto, torchao
)
CODES = ("I8", "U8", "I16", "U16", "I32", "U32")  # types of packed integers; I64 are indices
SCALES = re.compile(r"(scales?|scale_inv|absmax|SCB|zeros?|zero_points?|codebooks?)$")  # end of a name beside packed integers
FLOAT_SCALES = ("{name}_scale", "{name}_scale_inv", "{module}.scale", "{module}.scales")  # beside 8-bit floats
KEYS = ("quantization_config", "compression_config", "quantization")  # labels in config.json
FILES = ("hf_quant_config.json", "quantize_config.json", "quant_config.json")  # labels beside it: ModelOpt, GPTQ, AWQ


def refuse_quantised(model: Checkpoint, who: str, notes: list[str]) -> Checkpoint:
    """Return the model and note a label of quantisation on plain weights; raise UserError if weights are packed."""
    labels = _labels(model)
    tensor = quantised(model.entries, bool(labels))
    if tensor:
        reason = " and ".join([f"tensor '{tensor}' ({model.entries[tensor].dtype})", *labels])
        raise UserError(
            f"{who} ({model.folder}) is quantised according to {reason}; expected plain floating-point weights. Dequantise it"
            " first, or take the weights that it was quantised from"
        )
    if labels:
        notes.append(f"{who}: taken as not quantised, since all of its weights are plain, in spite of {' and '.join(labels)}")
    return model


def refuse_gguf(path: Path, who: str) -> None:
    """Raise a UserError for a GGUF file, and for a folder that has no other weights."""
    files = [path] if path.suffix == ".gguf" else sorted(path.glob("*.gguf")) if path.is_dir() else []
    if files and not any((path / file).is_file() for file in WEIGHTS):
        raise UserError(
            f"{who} ({path}) is quantised: {files[0].name} is a GGUF file of llama.cpp; expected safetensors or PyTorch weights."
            " Take the weights that it was made from"
        )


def quantised(entries: Mapping[str, Tensor], labelled: bool = False) -> str | None:
    """Return the name of the first tensor that holds codes or scales of quantised weights, or None.

    Codes are matrices of integers or of 8-bit floats that have scales beside them, in a `labelled` model also vectors and
    without scales.
    """
    scaled = {name.rpartition(".")[0] for name in entries if SCALES.search(name)} - {""}
    for name, tensor in entries.items():
        module, matrix = name.rpartition(".")[0], len(tensor.shape) > 1 and not is_buffer(name, tensor)
        if (
            PACKED.search(name)
            or (tensor.dtype in CODES and labelled and tensor.shape and not is_buffer(name, tensor))
            or (tensor.dtype in CODES and matrix and (name in scaled or module in scaled))
            or (
                tensor.dtype.startswith("F8")
                and (labelled or any(s.format(name=name, module=module) in entries for s in FLOAT_SCALES))
            )
        ):
            return name
    return None


def without_labels(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the changes of a config.json that remove its labels of quantisation; None is a key to remove."""
    nested = record.get("text_config")
    changes: dict[str, Any] = {key: None for key in KEYS if key in record}
    if isinstance(nested, dict) and any(key in nested for key in KEYS):
        changes["text_config"] = {key: value for key, value in nested.items() if key not in KEYS}
    return changes


def _labels(model: Checkpoint) -> list[str]:
    """Return the places that call a model quantised."""
    record = config(model)
    nested = record.get("text_config")
    parts = {"": record, "text_config.": nested if isinstance(nested, dict) else {}}
    keys = [f"`{where}{key}` of its config.json" for where, part in parts.items() for key in KEYS if part.get(key)]
    return keys + [file for file in FILES if model.config is None and (model.folder / file).is_file()]
