"""Models of real shapes with random numbers: LLaMA-like in bfloat16, CLIP image encoders in float32.

A block of random numbers is drawn once and laid over the tensors at changing offsets, so that making 14 GB takes no
longer than writing them. Experts differ from the base by noise of a hundredth of its spread and more, as fine-tuned
models do.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nan_merge.checkpoints.checkpoint import INDEX, SINGLE
from nan_merge.checkpoints.safetensors_file import DTYPES, header_bytes

Shapes = dict[str, tuple[int, ...]]
TILE = 1 << 24  # random numbers that are drawn
SHARD = 5_000_000_000  # bytes


@dataclass(frozen=True)
class Llama:
    """The shape of a LLaMA, stored in bfloat16."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    vocabulary: int
    dtype: str = "BF16"

    def divided(self, parts: int) -> Llama:
        """Return the shape with one part of the rows and of the columns of every matrix, and as many layers."""
        sides = ("hidden", "intermediate", "heads", "key_value_heads", "vocabulary")
        return dataclasses.replace(self, **{side: getattr(self, side) // parts for side in sides})

    def config(self) -> dict[str, Any]:
        """Return its `config.json`."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_value_heads,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "hidden_act": "silu",
            "bos_token_id": 1,
            "eos_token_id": 2,
        }

    def tensors(self) -> Shapes:
        """Return name -> shape of every tensor."""
        wide, inner, key_value = self.hidden, self.intermediate, self.hidden // self.heads * self.key_value_heads
        layer: Shapes = {
            "input_layernorm.weight": (wide,),
            "mlp.down_proj.weight": (wide, inner),
            "mlp.gate_proj.weight": (inner, wide),
            "mlp.up_proj.weight": (inner, wide),
            "post_attention_layernorm.weight": (wide,),
            "self_attn.k_proj.weight": (key_value, wide),
            "self_attn.o_proj.weight": (wide, wide),
            "self_attn.q_proj.weight": (wide, wide),
            "self_attn.v_proj.weight": (key_value, wide),
        }
        ends: Shapes = {"lm_head.weight": (self.vocabulary, wide), "model.embed_tokens.weight": (self.vocabulary, wide)}
        layers = {f"model.layers.{i}.{name}": shape for i in range(self.layers) for name, shape in layer.items()}
        return {**ends, **layers, "model.norm.weight": (wide,)}


@dataclass(frozen=True)
class Clip:
    """The shape of the image encoder of a CLIP, stored in float32."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    image: int
    patch: int
    dtype: str = "F32"

    def config(self) -> dict[str, Any]:
        """Return its `config.json`."""
        return {
            "architectures": ["CLIPVisionModel"],
            "model_type": "clip_vision_model",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "image_size": self.image,
            "patch_size": self.patch,
            "projection_dim": 512,
            "hidden_act": "quick_gelu",
            "layer_norm_eps": 1e-5,
            "torch_dtype": "float32",
        }

    def tensors(self) -> Shapes:
        """Return name -> shape of every tensor."""
        wide, inner = self.hidden, self.intermediate
        layer: Shapes = {}
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            layer |= {f"self_attn.{part}.weight": (wide, wide), f"self_attn.{part}.bias": (wide,)}
        layer |= {"layer_norm1.weight": (wide,), "layer_norm1.bias": (wide,)}
        layer |= {"mlp.fc1.weight": (inner, wide), "mlp.fc1.bias": (inner,)}
        layer |= {"mlp.fc2.weight": (wide, inner), "mlp.fc2.bias": (wide,)}
        layer |= {"layer_norm2.weight": (wide,), "layer_norm2.bias": (wide,)}
        shapes: Shapes = {
            "embeddings.class_embedding": (wide,),
            "embeddings.patch_embedding.weight": (wide, 3, self.patch, self.patch),
            "embeddings.position_embedding.weight": ((self.image // self.patch) ** 2 + 1, wide),
            "pre_layrnorm.weight": (wide,),
            "pre_layrnorm.bias": (wide,),
        }
        shapes |= {f"encoder.layers.{i}.{name}": shape for i in range(self.layers) for name, shape in layer.items()}
        shapes |= {"post_layernorm.weight": (wide,), "post_layernorm.bias": (wide,)}
        return {f"vision_model.{name}": shape for name, shape in shapes.items()}


Model = Llama | Clip
LLAMA_2_13B = Llama(5120, 13824, 40, 40, 40, 32000)
PARTS = {f"13B/{parts}": parts for parts in (8, 4, 2)}  # of the sides of the matrices of LLaMA-2-13B
MODELS: dict[str, Model] = {
    "100M": Llama(768, 2048, 8, 12, 12, 32000),
    "1B": Llama(2048, 5632, 22, 32, 4, 32000),  # TinyLlama
    "3B": Llama(3072, 8192, 28, 24, 8, 32000),
    "7B": Llama(4096, 11008, 32, 32, 32, 32000),  # LLaMA-2-7B
    **{name: LLAMA_2_13B.divided(parts) for name, parts in PARTS.items()},
    "ViT-B-32": Clip(768, 3072, 12, 12, 224, 32),
}
TINY: dict[type, Model] = {Llama: Llama(64, 128, 2, 4, 2, 256), Clip: Clip(64, 128, 2, 4, 64, 32)}


def parameters(model: Model) -> int:
    """Return the number of parameters."""
    return sum(math.prod(shape) for shape in model.tensors().values())


def model_bytes(model: Model) -> int:
    """Return the size of all tensors in bytes."""
    return parameters(model) * DTYPES[model.dtype].itemsize


def cut(model: Model, most: int) -> Model | None:
    """Return the model with as many of its layers as fit into `most` bytes; None if not one does."""
    fewer = range(model.layers - 1, 0, -1)
    fitting = (dataclasses.replace(model, layers=layers) for layers in (model.layers, *fewer))
    return next((each for each in fitting if model_bytes(each) <= most), None)


def make(folder: Path, model: Model, expert: int | None = None, shard_bytes: int = SHARD, holes: bool = False) -> Path:
    """Write the base, or expert number `expert`, into the new folder, in one file or in shards; return the folder.

    With `holes`, only the first tensors hold numbers (TILE of them); the rest reads as zeros and takes no disk.
    """
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(model.config(), indent=1) + "\n")
    tiles, shards = _Tiles(model, expert), _shards(model, shard_bytes)
    for file, shapes in shards.items():
        with open(folder / file, "wb") as stream:
            stream.write(header_bytes({name: (model.dtype, shape) for name, shape in shapes.items()}))
            for shape in shapes.values():
                for part in tiles.lay(math.prod(shape)):
                    if holes and tiles.laid > TILE:
                        stream.seek(part.nbytes, os.SEEK_CUR)
                    else:
                        stream.write(part.data)
            stream.truncate()
            stream.flush()
            os.fsync(stream.fileno())
    if len(shards) > 1:
        places = {name: file for file, shapes in shards.items() for name in shapes}
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}, indent=1))
    return folder


class _Tiles:
    """The numbers of one model, drawn once and repeated."""

    def __init__(self, model: Model, expert: int | None) -> None:
        values = np.random.default_rng(0).standard_normal(TILE, np.float32) * np.float32(0.02)
        if expert is not None:
            spread = np.float32(2e-4 * (1 + expert))
            values += np.random.default_rng(1 + expert).standard_normal(TILE, np.float32) * spread
        self.tile, self.laid = values.astype(DTYPES[model.dtype]), 0

    def lay(self, count: int) -> Iterator[np.ndarray]:
        """Yield the bytes of the next `count` numbers, in parts."""
        while count:
            at = self.laid % TILE
            part = self.tile[at : at + count]
            self.laid, count = self.laid + len(part), count - len(part)
            yield part.view(np.uint8)


def _shards(model: Model, most: int) -> dict[str, Shapes]:
    """Share the tensors out to files of at most `most` bytes: {file: shapes}."""
    shards: list[Shapes] = [{}]
    filled = 0
    for name, shape in model.tensors().items():
        size = math.prod(shape) * DTYPES[model.dtype].itemsize
        if shards[-1] and filled + size > most:
            shards.append({})
            filled = 0
        shards[-1][name] = shape
        filled += size
    if len(shards) == 1:
        return {SINGLE: shards[0]}
    return {f"model-{i:05}-of-{len(shards):05}.safetensors": shapes for i, shapes in enumerate(shards, 1)}
