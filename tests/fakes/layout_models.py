"""Tiny models in the layouts of real ones: a decoder with embedding and head, LoRA adapters, weight files of PyTorch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import torch

from nan_merge.checkpoints.checkpoint import Checkpoint, write_tensors
from nan_merge.layouts.unify import Models

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
QUERY, DOWN, NORM = "model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight", "model.norm.weight"
LLAMA: dict[str, tuple[int, ...]] = {
    EMBEDDING: (12, 6),
    **{
        f"model.layers.{layer}.{name}.weight": shape
        for layer in (0, 1)
        for name, shape in {"self_attn.q_proj": (6, 6), "mlp.up_proj": (10, 6), "mlp.down_proj": (6, 10)}.items()
    },
    NORM: (6,),
    HEAD: (12, 6),
}
CONFIG = {"model_type": "llama", "vocab_size": 12, "tie_word_embeddings": False}
FLOAT32 = np.dtype(np.float32)


def draw(seed: int, shapes: Mapping[str, tuple[int, ...]] = LLAMA, dtype: np.dtype = FLOAT32) -> dict[str, np.ndarray]:
    """Draw tensors from N(0, 1)."""
    rng = np.random.default_rng(seed)
    return {name: np.asarray(rng.standard_normal(shape), dtype) for name, shape in shapes.items()}


def write(folder: Path, tensors: Mapping[str, np.ndarray], config: Mapping[str, Any] | None = CONFIG) -> Path:
    """Write a model folder of one safetensors file."""
    folder.mkdir(parents=True)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    write_tensors(folder / "model.safetensors", tensors)
    return folder


def write_pickle(folder: Path, tensors: Mapping[str, Any], config: Mapping[str, Any] | None = CONFIG, **how: Any) -> Path:
    """Write a model folder of one `pytorch_model.bin`; values are arrays or torch tensors."""
    folder.mkdir(parents=True)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    state = {n: torch_tensor(value) if isinstance(value, np.ndarray) else value for n, value in tensors.items()}
    torch.save(state, folder / "pytorch_model.bin", **how)
    return folder


def torch_tensor(array: np.ndarray) -> torch.Tensor:
    """Make a torch tensor of any type that NumPy or ml_dtypes know."""
    if array.dtype.type.__module__ == "numpy":
        return torch.from_numpy(np.array(array))
    bits = np.array(array).view(np.uint16 if array.itemsize == 2 else np.uint8)
    return torch.from_numpy(bits).view(getattr(torch, array.dtype.name))


def write_adapter(folder: Path, tensors: Mapping[str, np.ndarray], *, pickled: bool = False, **config: Any) -> Path:
    """Write an adapter folder as PEFT does; names are given without PEFT's prefix."""
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 3, **config}))
    named = {f"base_model.model.{name}": value for name, value in tensors.items()}
    if pickled:
        torch.save({name: torch_tensor(value) for name, value in named.items()}, folder / "adapter_model.bin")
    else:
        write_tensors(folder / "adapter_model.safetensors", named)
    return folder


def factors(module: str, out: int, into: int, rank: int = 2, seed: int = 0, dtype: np.dtype = FLOAT32) -> dict[str, np.ndarray]:
    """Draw the two factors of a linear module, under PEFT's names."""
    return draw(seed, {f"{module}.lora_A.weight": (rank, into), f"{module}.lora_B.weight": (out, rank)}, dtype)


def values(checkpoint: Checkpoint, name: str) -> np.ndarray:
    """Read one tensor in blocks of odd sizes, and hold them against one read of the whole: (*shape)."""
    tensor = checkpoint.entries[name]
    whole = tensor.block(0, tensor.size)
    buffer = np.empty(8 * 7, np.uint8)
    for start in range(0, tensor.size, 7):
        stop = min(start + 7, tensor.size)
        assert tensor.block(start, stop).tobytes() == whole[start:stop].tobytes()
        assert tensor.block(start, stop, buffer).tobytes() == whole[start:stop].tobytes()
    return whole.reshape(tensor.shape)


def expert(models: Models, name: str, tensor: str) -> np.ndarray:
    """Read one tensor of one expert as it is merged: (*shape)."""
    return values(models.experts[name], tensor)


def all_floats() -> dict[str, np.dtype]:
    """Return the floating-point types that checkpoints are stored in."""
    kinds = (np.float64, np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2)
    return {np.dtype(kind).name: np.dtype(kind) for kind in kinds}
