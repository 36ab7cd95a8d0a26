"""Tiny models in the layouts of real ones: a decoder with embedding and head, LoRA adapters, weight files of PyTorch, LLaVAs."""

import json
import re
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


# ---- vision-language models -----------------------------------------------------------------------------------------

WORDS = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12,
         "num_key_value_heads": 1, "max_position_embeddings": 24, "pad_token_id": 0, "bos_token_id": 1,
         "eos_token_id": 2}  # fmt: skip
VIT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12, "image_size": 8,
       "patch_size": 4}  # fmt: skip
CLIP_VIT, PICTURE = {"model_type": "clip_vision_model", **VIT}, 20  # the token of a picture
QWEN_WORDS = {**WORDS, "num_attention_heads": 1, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}
LLAVA_CONFIG = {"text_config": {"model_type": "llama", **WORDS}, "vision_config": CLIP_VIT, "image_token_index": PICTURE}
VISION_LANGUAGE: dict[str, tuple[str, dict[str, Any]]] = {
    "llava": ("LlavaForConditionalGeneration", {**LLAVA_CONFIG, "image_seq_length": 4}),
    "llava_next": ("LlavaNextForConditionalGeneration", LLAVA_CONFIG),
    "qwen2_vl": ("Qwen2VLForConditionalGeneration", {"text_config": QWEN_WORDS, "vision_config": {
        "depth": 1, "embed_dim": 8, "hidden_size": 8, "num_heads": 1, "mlp_ratio": 2, "patch_size": 4}}),
    "qwen2_5_vl": ("Qwen2_5_VLForConditionalGeneration", {"text_config": QWEN_WORDS, "vision_config": {
        "depth": 1, "hidden_size": 8, "intermediate_size": 12, "num_heads": 1, "out_hidden_size": 8, "patch_size": 4,
        "window_size": 16, "fullatt_block_indexes": [0]}}),
    "internvl": ("InternVLForConditionalGeneration", {"text_config": {"model_type": "qwen2", **WORDS}, "vision_config": {
        **VIT, "image_size": [8, 8], "patch_size": [4, 4]}, "image_token_id": PICTURE}),
    "gemma3": ("Gemma3ForConditionalGeneration", {"text_config": {"head_dim": 4, **WORDS}, "vision_config": VIT}),
}  # fmt: skip
LLAVA_NAMES = {  # layout -> from the names in the memory of transformers 5, which it writes if it is told to
    "memory": (),
    "hub": (
        (r"^model\.language_model\.", "language_model.model."), (r"^lm_head", "language_model.lm_head"),
        (r"^model\.vision_tower\.", "vision_tower.vision_model."), (r"^model\.(multi_modal_projector|image_newline)", r"\1"),
    ),
    "original": (
        (r"^model\.language_model\.", "model."), (r"^model\.multi_modal_projector\.linear_1\.", "model.mm_projector.0."),
        (r"^model\.multi_modal_projector\.linear_2\.", "model.mm_projector.2."),
        (r"^model\.vision_tower\.", "model.vision_tower.vision_tower.vision_model."),
    ),
}  # fmt: skip


def vision_language(kind: str, seed: int = 0, **words: Any) -> Any:
    """Make a random model of VISION_LANGUAGE with other keys of its language model."""
    import transformers

    name, record = VISION_LANGUAGE[kind]
    model = getattr(transformers, name)
    torch.manual_seed(seed)
    return model(model.config_class(**{**record, "text_config": {**record["text_config"], **words}})).eval()


def write_llava(folder: Path, model: Any, layout: str, tower: bool = True, picture: int = PICTURE) -> dict[str, torch.Tensor]:
    """Write a LLaVA of transformers in one of LLAVA_NAMES, and return its tensors; the original one has no token of a picture."""
    tensors = {
        name: tensor.detach().clone() for name, tensor in model.state_dict().items() if tower or "vision_tower" not in name
    }
    record = json.loads(model.config.to_json_string())
    if layout == "original":
        tables = ("model.language_model.embed_tokens.weight", "lm_head.weight")
        tensors |= {name: tensors[name][:picture] for name in tables}
        record = {**record["text_config"], "model_type": "llava", "architectures": ["LlavaLlamaForCausalLM"],
                  "vocab_size": picture, "mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2,
                  "mm_vision_tower": "openai/clip"}  # fmt: skip
        record |= {key: grid for key in ["image_grid_pinpoints"] if (grid := getattr(model.config, key, None))}
    for pattern, new in LLAVA_NAMES[layout]:
        tensors = {re.sub(pattern, new, name): tensor for name, tensor in tensors.items()}
    write(folder, {name: tensor.numpy() for name, tensor in tensors.items()}, record)
    return tensors


def write_clip(folder: Path, model: Any) -> Path:
    """Write the tower of a LLaVA as it is in a CLIPModel of the hub, with a projection and a text tower."""
    tower = {name.partition(".vision_tower.")[2]: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    named = {f"vision_model.{name}": tensor for name, tensor in tower.items() if name}
    other = draw(9, {"visual_projection.weight": (4, 8), "text_model.final_layer_norm.bias": (4,), "logit_scale": ()})
    return write(folder, {**named, **other}, {"model_type": "clip", "vision_config": CLIP_VIT, "text_config": {}})
