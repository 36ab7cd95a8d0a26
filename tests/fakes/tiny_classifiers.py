"""Tiny bases and classifiers of GPT-2 and RoBERTa in the files of their originals on the hub, with a tokenizer of words.

A base of GPT-2 has the names of GPT2Model and causal masks, one of RoBERTa is a masked language model; experts are whole
classifiers, those of RoBERTa in pytorch_model.bin.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

KINDS = ("gpt2", "roberta")
SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "roberta": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                "max_position_embeddings": 66},
}  # fmt: skip
SPECIAL = {"gpt2": ["<|endoftext|>"], "roberta": ["<s>", "<pad>", "</s>", "<unk>"]}


def config(kind: str, words: int, labels: int = 2) -> Any:
    """Return a config for a vocabulary of so many words; the special tokens of GPT-2 come last, those of RoBERTa first."""
    from transformers import GPT2Config, RobertaConfig

    size = words + len(SPECIAL[kind])
    if kind == "gpt2":
        end = {"bos_token_id": size - 1, "eos_token_id": size - 1}
        return GPT2Config(**SIZES[kind], **end, vocab_size=size, num_labels=labels, initializer_range=0.2)
    return RobertaConfig(**SIZES[kind], vocab_size=size, num_labels=labels, initializer_range=0.2)


def base(kind: str, words: int, seed: int = 0) -> Any:
    """Return a base: the body of GPT-2, or RoBERTa with the head of its pre-training."""
    from transformers import GPT2Model, RobertaForMaskedLM

    torch.manual_seed(seed)
    return {"gpt2": GPT2Model, "roberta": RobertaForMaskedLM}[kind](config(kind, words)).eval()


def classifier(kind: str, origin: Any, labels: int, seed: int, change: float = 0.0) -> Any:
    """Return a classifier with a random head and the body of a base, moved by a random step; GPT-2 pads by its last token."""
    from transformers import GPT2ForSequenceClassification, RobertaForSequenceClassification

    torch.manual_seed(seed)
    settings = config(kind, origin.config.vocab_size - len(SPECIAL[kind]), labels)
    settings.pad_token_id = settings.eos_token_id if kind == "gpt2" else settings.pad_token_id
    model: Any = {"gpt2": GPT2ForSequenceClassification, "roberta": RobertaForSequenceClassification}[kind](settings).eval()
    body, start = (model.transformer, origin) if kind == "gpt2" else (model.roberta, origin.roberta)
    body.load_state_dict(start.state_dict())
    with torch.no_grad():
        for parameter in body.parameters():
            parameter += change * torch.randn(parameter.shape)
    return model


def publish(folder: Path, kind: str, model: Any, words: Sequence[str] = ()) -> Path:
    """Save a base with its tokenizer (`words` given), or a classifier, as the originals are stored."""
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    if kind == "gpt2" and words:
        size = SIZES["gpt2"]["n_positions"]
        masks = {f"h.{i}.attn.bias": torch.ones(size, size).tril()[None, None] for i in range(SIZES["gpt2"]["n_layer"])}
        save_file({**tensors, **masks}, folder / "model.safetensors", {"format": "pt"})
    if kind == "roberta" and not words:
        torch.save(tensors, folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    if words:
        tokenizer(kind, words).save(str(folder / "tokenizer.json"))
    stored = json.loads((folder / "config.json").read_text())
    if words:
        stored.pop("pad_token_id" if kind == "gpt2" else "", None)
    (folder / "config.json").write_text(json.dumps(stored))
    return folder


def tokenizer(kind: str, words: Sequence[str]) -> Any:
    """Return a tokenizer of words that joins pairs as the originals do: without a separator, or `<s> a </s></s> b </s>`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    ids = [*words, *SPECIAL[kind]] if kind == "gpt2" else [*SPECIAL[kind], *words]
    found = Tokenizer(models.WordLevel({word: number for number, word in enumerate(ids)}, unk_token=ids[-1]))
    found.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if kind == "roberta":
        found.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return found


def tokens(kind: str, words: Sequence[str], columns: Sequence[Sequence[str]], padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return padded token ids of texts or pairs, and the mask of tokens: (N, width) each."""
    rows = [
        each.ids for each in tokenizer(kind, words).encode_batch([c[0] if len(c) == 1 else c for c in zip(*columns, strict=True)])
    ]
    ids = torch.full((len(rows), max(map(len, rows))), padding)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), 1
    return ids, mask


def train(model: Any, ids: torch.Tensor, mask: torch.Tensor, labels: Sequence[Any], steps: int, rate: float, seed: int) -> Any:
    """Fine-tune a classifier by its own loss: cross-entropy, or squares of the error where it has one output."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    wanted = torch.tensor(labels)
    optimiser = torch.optim.AdamW(model.parameters(), rate)
    model.train()
    for _ in range(steps):
        rows = torch.randint(len(ids), (32,))
        optimiser.zero_grad()
        model(input_ids=ids[rows], attention_mask=mask[rows], labels=wanted[rows]).loss.backward()
        optimiser.step()
    return model.eval()


def answers(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the class of every row, or its number where the classifier has one output: (N,)."""
    with torch.inference_mode():
        logits = model(input_ids=ids, attention_mask=mask).logits
    return logits[:, 0] if logits.shape[1] == 1 else logits.argmax(1)
