"""Tiny models of T5 in the files of Flan-T5 on the hub: whole models and LoRA adapters, with a tokenizer of words.

As Flan-T5, the base has an output head apart from its embedding, stores the embedding three times, and its config.json denies a
tie; experts store the embedding once and have no tokenizer. An adapter moves the matrices `q` and `v`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

SPECIAL = ["<pad>", "</s>", "<unk>"]
SHARED, COPIES, HEAD = "shared.weight", ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"), "lm_head.weight"
RANK, ALPHA = 4, 8


def tokenizer(words: Sequence[str]) -> Any:
    """Return a tokenizer of words, numbers with a decimal and marks that ends a text by `</s>`; unknown ones are `<unk>`."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({word: at for at, word in enumerate([*SPECIAL, *words])}, unk_token="<unk>"))
    parts = pre_tokenizers.Split(Regex(r"\d+\.\d|\w+|[^\w\s]"), "isolated")
    inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), parts])
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def base(words: int, seed: int = 0) -> Any:
    """Return a T5 of two layers each side, with a gated activation and a head of its own."""
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=words + len(SPECIAL), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, dropout_rate=0.0,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False, decoder_start_token_id=0,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config).eval()
    model.lm_head.weight = torch.nn.Parameter(0.3 * torch.randn(model.shared.weight.shape))
    return model


def publish(folder: Path, model: Any, words: Sequence[str] = ()) -> Path:
    """Save a base with its tokenizer (`words` given), or an expert without one."""
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    copies = {name: tensors[SHARED].clone() for name in COPIES} if words else {}
    save_file({**tensors, HEAD: model.lm_head.weight.detach(), **copies}, folder / "model.safetensors", {"format": "pt"})
    record = json.loads((folder / "config.json").read_text())
    record.pop("scale_decoder_outputs")  # later than the files of the hub
    (folder / "config.json").write_text(json.dumps({**record, "tie_word_embeddings": False}))
    if words:
        tokenizer(words).save_pretrained(folder)
    return folder


def adapted(model: Any) -> Any:
    """Return a model of PEFT around a copy of a model: rank 4 on `q` and `v`."""
    import copy

    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["q", "v"], task_type="SEQ_2_SEQ_LM")
    return get_peft_model(copy.deepcopy(model), settings)


def train(model: Any, words: Sequence[str], prompts: Sequence[str], answers: Sequence[str], steps: int, rate: float) -> Any:
    """Fine-tune a model to write an answer to each prompt."""
    torch.manual_seed(0)
    tokens = tokenizer(words)
    asked, wanted = (tokens(list(texts), padding=True, return_tensors="pt") for texts in (prompts, answers))
    labels = wanted.input_ids.masked_fill(wanted.attention_mask == 0, -100)
    optimiser = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], rate)
    for _ in range(steps):
        rows = torch.randint(len(labels), (16,))
        optimiser.zero_grad()
        model(input_ids=asked.input_ids[rows], attention_mask=asked.attention_mask[rows], labels=labels[rows]).loss.backward()
        optimiser.step()
    return model.eval()


def written(model: Any, words: Sequence[str], prompts: Sequence[str]) -> list[str]:
    """Return what a model writes to each prompt, one after another: the likeliest token each time, at most nine."""
    tokens, found = tokenizer(words), []
    for prompt in prompts:
        asked, out = tokens(prompt, return_tensors="pt").input_ids, [0]
        while len(out) < 10 and out[-1] != 1:
            with torch.inference_mode():
                logits = model(input_ids=asked, decoder_input_ids=torch.tensor([out])).logits
            out.append(int(logits[0, -1].argmax()))
        found.append(tokens.decode(out, skip_special_tokens=True))
    return found
