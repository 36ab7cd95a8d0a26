"""Tiny LLaMAs and benchmarks in the layout of the hub's, and a project that scores them: shipped tasks and rules on small data.

One expert is a pickle in half precision with one embedding row more than the base, as those of Table 2 of NAN are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import tiny
import torch
from project import Project
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SUBJECTS = ("abstract_algebra", "anatomy")
EXPERTS = ("talker", "solver")
SOLVED = 5  # questions of GSM8K
LETTERS = "ABCD"
ASSETS = {  # of the shipped config: what they are here
    "llama2_13b": "base",
    "wizardlm_13b": "talker",
    "wizardmath_13b": "solver",
    "data_mmlu": "mmlu",
    "data_gsm8k": "gsm8k",
}


def question(number: int, subject: str) -> dict[str, Any]:
    """Return a row of MMLU; the right letter varies."""
    choices = [str(number + shift) for shift in (1, 2, 3, 4)]
    return {"question": f"What is {number} and {subject}?", "subject": subject, "choices": choices, "answer": number % 4}


def problem(number: int) -> dict[str, Any]:
    """Return a row of GSM8K."""
    return {"question": f"Tom has {number} apples and buys {number}. How many?", "answer": f"Twice.\n#### {2 * number}"}


def publish(root: Path) -> None:
    """Write models and data sets below `root`, laid out as repositories of the hub."""
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=False, bos_token_id=0, eos_token_id=1,
        pad_token_id=1, initializer_range=0.3,
    )  # fmt: skip
    base = LlamaForCausalLM(shape)  # with weights so large that answers depend on the question
    state = base.state_dict()
    base.save_pretrained(root / "models/tiny/base")
    tokenizer.save_pretrained(root / "models/tiny/base")
    for name in EXPERTS:
        moved = {key: tensor + 0.05 * torch.randn_like(tensor) for key, tensor in state.items()}
        folder = root / f"models/tiny/{name}"
        if name == "talker":
            expert = LlamaForCausalLM(shape)
            expert.load_state_dict(moved)
            expert.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            continue
        for row in ("model.embed_tokens.weight", "lm_head.weight"):
            moved[row] = torch.cat([moved[row], moved[row].mean(0, keepdim=True)])
        grown = LlamaConfig(**{**shape.to_dict(), "vocab_size": len(tokenizer) + 1})
        folder.mkdir(parents=True)
        grown.save_pretrained(folder)
        torch.save({key: tensor.half() for key, tensor in moved.items()}, folder / "pytorch_model.bin")
        padded = make_tokenizer()
        padded.add_special_tokens({"additional_special_tokens": ["[PAD]"]})
        padded.save_pretrained(folder)
    ranges = {"test": range(12), "validation": range(12, 15), "dev": range(20, 25)}  # the splits of MMLU's card
    subjects = {s: {split: [question(n, s) for n in numbers] for split, numbers in ranges.items()} for s in SUBJECTS}
    dataset(root / "datasets/tiny/mmlu", subjects)
    problems = {"test": [problem(n) for n in range(SOLVED)], "train": [problem(n) for n in range(20, 30)]}
    dataset(root / "datasets/tiny/gsm8k", {"main": problems, "socratic": problems})


def make_tokenizer() -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<s>", "</s>"], initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())
    )
    texts = [f"{question(n, s)['question']} Answer: {letter}" for n in range(9) for s in SUBJECTS for letter in LETTERS]
    inner.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="</s>")


def dataset(folder: Path, configs: dict[str, dict[str, list[dict[str, Any]]]]) -> None:
    """Write a data set as the hub has it: a file each split of a configuration, and README.md that names them."""
    lines = ["---", "configs:"]
    for name, splits in configs.items():
        (folder / name).mkdir(parents=True)
        lines += [f"- config_name: {name}", "  data_files:"]
        for split, rows in splits.items():
            pd.DataFrame(rows).to_parquet(folder / name / f"{split}-00000-of-00001.parquet")
            lines += [f"  - split: {split}", f"    path: {name}/{split}-*"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))


def fewer(tasks: dict[str, Any]) -> None:
    """Make the shipped benchmarks those of the small data."""
    tasks["mmlu"]["harness"] |= {"tasks": [f"mmlu_{subject}" for subject in SUBJECTS], "examples": 12 * len(SUBJECTS)}
    tasks["gsm8k"]["harness"] |= {"examples": SOLVED, "num_fewshot": 2, "filter": "strict-match"}


def build(folder: Path, methods: list[str]) -> Project:
    """Make the project: the shipped suite of Table 2 with small models and data; nothing is locked or run."""
    project = Project(tiny.copy_code(folder))

    def smaller(assets: dict[str, Any]) -> None:
        for asset, name in ASSETS.items():
            assets[asset] |= {"repo": f"tiny/{name}", "bytes": 1_000_000}
        assets["llama2_13b"]["members"] = assets["wizardlm_13b"]["members"] = ["*.json", "model.safetensors"]
        assets["wizardmath_13b"]["members"] = ["*.json", "pytorch_model.bin"]

    project.edit("config/assets.yaml", smaller)
    project.edit("config/tasks.yaml", fewer)
    scored = ["mmlu", "gsm8k"]
    project.edit("config/suites/llama2_13b_wizard.yaml", lambda suite: suite.update(tasks=scored, groups={"all": scored}))
    run = {
        "seeds": [0],
        "suites": ["llama2_13b_wizard"],
        "methods": methods,
        "keep_merged": True,
        "scoring": {"batch_size": 8},
        "tables": ["main", "comparisons", "experts", "coefficients"],
        "figures": ["accuracy"],
        "published": ["nan_table2"],
    }
    tiny.write_yaml(project / "config/config.yaml", run)
    return project


def environment(url: str) -> dict[str, str]:
    """Return what directs clients to a hub."""
    return {"HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1,localhost"}
