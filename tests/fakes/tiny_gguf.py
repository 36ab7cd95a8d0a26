"""A tiny LLaMA as one GGUF file, and tasks of BIG-bench in the layout of its package."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import tiny_language
import torch
from gguf import GGMLQuantizationType, GGUFWriter, quants
from transformers import LlamaConfig, LlamaForCausalLM

HEADS = 4
LAYER = {  # name in a block of GGUF: name in transformers
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
}  # fmt: skip


def write(file: Path) -> dict[str, np.ndarray]:
    """Write a model with tied head, matrices as Q8_0; return its weights as they are unpacked, by names of transformers."""
    tokenizer = tiny_language.make_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=HEADS,
        num_key_value_heads=HEADS, max_position_embeddings=256, tie_word_embeddings=True, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    state = {name: tensor.numpy() for name, tensor in LlamaForCausalLM(config).state_dict().items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(file, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    vocabulary = tokenizer.get_vocab()
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(vocabulary, key=vocabulary.__getitem__))
    writer.add_token_types([3 if token in ("<s>", "</s>") else 1 for token in sorted(vocabulary, key=vocabulary.__getitem__)])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    names = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
    names |= {
        f"blk.{n}.{short}.weight": f"model.layers.{n}.{long}.weight"
        for n in range(config.num_hidden_layers)
        for short, long in LAYER.items()
    }
    unpacked = {}
    for short, long in names.items():
        if state[long].ndim == 1:
            writer.add_tensor(short, state[long])
            unpacked[long] = state[long]
            continue
        packed = quants.quantize(state[long], GGMLQuantizationType.Q8_0)
        unpacked[long] = quants.dequantize(packed, GGMLQuantizationType.Q8_0)
        stored = _interleaved(state[long]) if "attn_q" in short or "attn_k" in short else state[long]
        writer.add_tensor(short, quants.quantize(stored, GGMLQuantizationType.Q8_0), raw_dtype=GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return unpacked


def _interleaved(weight: np.ndarray) -> np.ndarray:
    """Put the rows of a query or key matrix into the order that llama.cpp rotates them in."""
    rows, columns = weight.shape
    return weight.reshape(HEADS, 2, rows // HEADS // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def tasks(folder: Path, names: list[str], count: int = 320) -> None:
    """Write `count` examples of each task: the colour that the input names decides on the text, or on the choice."""
    for name in names:
        examples = []
        for number in range(count):
            colour, right = (("red", "stop"), ("green", "go"))[number % 2]
            kind = {"target": right}
            if not name.startswith("linguistic_mappings"):
                kind = {"target_scores": {choice: int(choice == right) for choice in ("stop", "go")}}
            examples.append({"input": f"{colour} {number}", **kind})
        (folder / name).mkdir(parents=True)
        (folder / name / "task.json").write_text(json.dumps({"name": name, "examples": examples}))
