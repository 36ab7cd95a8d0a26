"""All parts of MMLU, C-Eval and BBH in the hub's layout, an example or two each, and a LLaMA whose answers are known.

The model looks at the last token only: to a choice it answers B, and else `the answer is True.`
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import lm_eval
import torch
from tiny_language import LETTERS, dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TASKS = Path(lm_eval.__file__).parent / "tasks"
FOLDERS = {"mmlu": "mmlu/default", "ceval": "ceval", "bbh": "bbh/cot_fewshot"}
SHOTS = 5
Row = dict[str, Any]


def parts(benchmark: str) -> list[str]:
    """Return the configurations of the data set that the tasks of lm_eval name."""
    texts = (file.read_text("utf-8") for file in sorted((TASKS / FOLDERS[benchmark]).glob("*.yaml")))
    return sorted(found[1] for text in texts if (found := re.search(r'^"?dataset_name"?: "?(\w+)"?$', text, re.MULTILINE)))


def right(part: int) -> list[bool]:
    """Return which examples of a part the model answers right, by three kinds of parts."""
    return ([True, False], [True], [False, False])[part % 3]


def mmlu(number: int, known: bool) -> Row:
    """Return a row of MMLU; B is right if the model is to be."""
    choices = [str(number + shift) for shift in range(4)]
    return {"question": f"What is {number}?", "subject": "any", "choices": choices, "answer": 1 if known else 3}


def ceval(number: int, known: bool) -> Row:
    """Return a row of C-Eval."""
    choices = {letter: str(number + shift) for shift, letter in enumerate(LETTERS)}
    return {"id": number, "question": f"{number}等于?", **choices, "answer": "B" if known else "D", "explanation": ""}


def bbh(number: int, known: bool) -> Row:
    """Return a row of BBH."""
    return {"input": f"Is {number} a number?", "target": "True" if known else "(A)"}


ROWS: dict[str, Callable[[int, bool], Row]] = {"mmlu": mmlu, "ceval": ceval, "bbh": bbh}
SCORED = {"mmlu": "test", "ceval": "val", "bbh": "test"}  # splits


def publish(folder: Path, benchmark: str, only: Iterable[str] = ()) -> Path:
    """Write a benchmark, all its parts or some, as the hub has it."""
    row, every = ROWS[benchmark], parts(benchmark)
    configs = {}
    for number in sorted(every.index(name) for name in only or every):
        splits = {SCORED[benchmark]: [row(each, known) for each, known in enumerate(right(number))]}
        if benchmark != "bbh":
            splits["dev"] = [row(each, True) for each in range(20, 20 + SHOTS)]
        configs[every[number]] = splits
    dataset(folder, configs)
    return folder


def model(folder: Path) -> Path:
    """Write a LLaMA that is a table of the next token: embeddings are one-hot, attention and MLP add nothing."""
    phrase = ["the answer is ", "True", ".", "</s>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({"<s>": 0, "</s>": 1, **{letter: i for i, letter in enumerate(letters, 2)}}, []))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    inner.add_special_tokens(["<s>", "</s>"])
    inner.add_tokens(phrase[:2])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    size = len(tokenizer)
    shape = LlamaConfig(
        vocab_size=size, hidden_size=size, intermediate_size=1, num_hidden_layers=1, num_attention_heads=1, head_dim=2,
        num_key_value_heads=1, max_position_embeddings=16384, tie_word_embeddings=False, bos_token_id=0, eos_token_id=1,
        pad_token_id=1,
    )  # fmt: skip
    table = LlamaForCausalLM(shape)
    with torch.no_grad():
        for name, weight in table.named_parameters():
            weight.fill_(float("norm" in name))
        table.model.embed_tokens.weight.copy_(torch.eye(size))
        follows = table.lm_head.weight
        follows[tokenizer.convert_tokens_to_ids(phrase[0])] = 0.5  # after any token
        for last, following in [(":", "Ġ"), ("Ġ", "B"), *pairwise(phrase)]:
            pair = tokenizer.convert_tokens_to_ids([following, last])
            follows[pair[0], pair[1]] = 1
    table.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
