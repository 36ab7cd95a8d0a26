"""Map the tensors of CLIP between open_clip and transformers, block by block as they are read.

open_clip fuses the attention projections of query, key and value, (3 d, d), and stores the output projections as (in, out);
transformers has separate tensors, stored as (out, in). No number changes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nan_merge.checkpoints.safetensors_file import DTYPES, RowSlice, Tensor
from nan_merge.core.errors import UserError

OUTSIDE = {  # open_clip -> transformers; a name that ends with a dot is a prefix
    "visual.conv1.": "vision_model.embeddings.patch_embedding.",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.": "vision_model.pre_layrnorm.",
    "visual.ln_post.": "vision_model.post_layernorm.",
    "visual.proj": "visual_projection.weight",
    "token_embedding.": "text_model.embeddings.token_embedding.",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.": "text_model.final_layer_norm.",
    "text_projection": "text_projection.weight",
    "logit_scale": "logit_scale",
}
BLOCKS = {"visual.transformer.resblocks.": "vision_model.encoder.layers.", "transformer.resblocks.": "text_model.encoder.layers."}
INSIDE = {
    "ln_1.": "layer_norm1.", "ln_2.": "layer_norm2.", "attn.out_proj.": "self_attn.out_proj.", "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
}  # fmt: skip
TRANSPOSED = ("visual.proj", "text_projection")
FUSED = re.compile(r"(.+\.)attn\.in_proj_(weight|bias)")
APART = ("q", "k", "v")


@dataclass
class Transposed(Tensor):
    """The transpose of a matrix."""

    matrix: Tensor

    def block(self, start: int, stop: int, buffer: np.ndarray | None = None) -> np.ndarray:
        """Read the elements `start` to `stop`, flattened in C order, as stored: (stop - start,)."""
        whole = self.matrix.block(0, self.matrix.size).reshape(self.matrix.shape)
        return np.ascontiguousarray(whole.T).reshape(-1)[start:stop]


@dataclass
class Concatenated(Tensor):
    """Tensors of equal size, concatenated along the first axis."""

    parts: tuple[Tensor, ...]

    def block(self, start: int, stop: int, buffer: np.ndarray | None = None) -> np.ndarray:
        """Read the elements `start` to `stop`, flattened in C order, as stored: (stop - start,)."""
        blocks, size = [np.empty(0, DTYPES[self.dtype])], self.parts[0].size
        for i, part in enumerate(self.parts):
            first, last = max(start - i * size, 0), min(stop - i * size, size)
            if first < last:
                blocks.append(part.block(first, last))
        return np.concatenate(blocks)


def to_transformers(folder: Path, entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of open_clip's CLIP, of one or both towers, under the names of transformers' CLIPModel."""
    converted: dict[str, Tensor] = {}
    for name, tensor in entries.items():
        if fused := FUSED.fullmatch(name):
            block, kind = _rename(folder, fused[1], BLOCKS, {}), fused[2]
            rows = (tensor.shape[0] // 3, *tensor.shape[1:])
            for i, which in enumerate(APART):
                converted[f"{block}self_attn.{which}_proj.{kind}"] = RowSlice(tensor.dtype, rows, tensor, i * (tensor.size // 3))
        else:
            converted[_rename(folder, name, BLOCKS | OUTSIDE, INSIDE)] = transpose(tensor) if name in TRANSPOSED else tensor
    return converted


def to_open_clip(folder: Path, entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of transformers' CLIPModel, of one or both towers, under the names of open_clip's CLIP."""
    blocks, outside, inside = ({new: old for old, new in names.items()} for names in (BLOCKS, OUTSIDE, INSIDE))
    transposed = {OUTSIDE[name] for name in TRANSPOSED}
    converted: dict[str, Tensor] = {}
    for name, tensor in entries.items():
        if apart := re.fullmatch(r"(.+\.)self_attn\.([qkv])_proj\.(weight|bias)", name):
            fused = f"{_rename(folder, apart[1], blocks, {})}attn.in_proj_{apart[3]}"
            parts = [entries.get(f"{apart[1]}self_attn.{which}_proj.{apart[3]}") for which in APART]
            whole = tuple(part for part in parts if part is not None)
            if len(whole) != len(APART) or {part.shape for part in whole} != {tensor.shape}:
                raise UserError(f"{folder}: '{name}' lacks query, key or value tensors of equal shape; fetch the model again")
            converted.setdefault(fused, Concatenated(tensor.dtype, (3 * tensor.shape[0], *tensor.shape[1:]), whole))
        else:
            converted[_rename(folder, name, blocks | outside, inside)] = transpose(tensor) if name in transposed else tensor
    return converted


def transpose(tensor: Tensor) -> Tensor:
    """Return the transpose of a matrix; the transpose of a transpose is the original tensor."""
    return tensor.matrix if isinstance(tensor, Transposed) else Transposed(tensor.dtype, tensor.shape[::-1], tensor)


def _rename(folder: Path, name: str, outside: Mapping[str, str], inside: Mapping[str, str]) -> str:
    """Return the other library's name of a tensor; raise UserError if it has no counterpart."""
    for old, new in outside.items():
        if name == old or (old.endswith(".") and name.startswith(old)):
            rest = name.removeprefix(old)
            number, dot, part = rest.partition(".")
            if not number.isdecimal() or not part:
                return new + rest
            for before, after in inside.items():
                if part.startswith(before):
                    return f"{new}{number}{dot}{part.replace(before, after, 1)}"
    raise UserError(f"{folder}: the tensor '{name}' has no counterpart; expected a ViT of CLIP without extras")
