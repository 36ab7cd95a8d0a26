"""Models for the files in `mergekit_files/`: a family with tokenizers, experts with other vocabularies, and an adapter."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.parity.models import FAMILIES, Family, adapter, draw, read, single
from benchmarks.parity.models import make as make_family
from nan_merge.checkpoints.checkpoint import write_checkpoint
from nan_merge.core.files import write_json

NAME, TOKENS = "LLaMA of six layers", 128
ROWS = ("model.embed_tokens.weight", "lm_head.weight")  # tensors with a row a token
TEMPLATES = {"expert_0": "a", "longer": "b", "shorter": "b"}  # what their chat templates differ in


def make(folder: Path) -> Family:
    """Write a base and three experts, `longer` and `shorter` with two more and eight fewer tokens, and `adapter` on the base."""
    family = make_family(NAME, folder)
    config = FAMILIES[NAME].config()
    for name, expert, tokens in (("longer", 0, TOKENS + 2), ("shorter", 1, TOKENS - 8)):
        tensors = {key: with_rows(key, each, tokens) for key, each in read(family.experts[expert]).items()}
        write_checkpoint(folder / name, single(tensors), {**config, "vocab_size": tokens})
        tokenizer(folder / name, tokens)
    for model in (family.base, *family.experts):
        tokenizer(model, TOKENS)
    adapter(folder / "adapter", read(family.base), str(family.base), 0.05, 7)
    return family


def with_rows(name: str, tensor: np.ndarray, count: int) -> np.ndarray:
    """Return a tensor with `count` rows if it has a row a token; new ones are random."""
    more = draw({name: (max(0, count - len(tensor)), *tensor.shape[1:])}, 0.02, 9)[name]
    return np.concatenate([tensor, more])[:count] if name in ROWS else tensor


def tokenizer(folder: Path, tokens: int) -> None:
    """Write a tokenizer of `tokens` words, and the model's chat template if it has one."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"word{number}": number for number in range(3, tokens)}
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"}
    kinds = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    special = [{"id": number, "content": token, **kinds, "special": True} for token, number in [*vocabulary.items()][:3]]
    steps = {"pre_tokenizer": {"type": "Whitespace"}, **dict.fromkeys(("normalizer", "post_processor", "decoder"))}
    write_json(folder / "tokenizer.json", {"version": "1.0", "added_tokens": special, **steps, "model": model})
    words = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **words})
    if mark := TEMPLATES.get(folder.name):
        text = "{% for message in messages %}<" + mark + ">{{ message.content }}\n{% endfor %}"
        (folder / "chat_template.jinja").write_text(text, encoding="utf-8")
