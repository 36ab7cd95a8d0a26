"""Prepared language models: links, and what is refused before a merge."""

import json
import shutil

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from nan_merge.checkpoints.checkpoint import write_checkpoint
from nan_merge.core.errors import UserError
from nan_merge.models.families.causal_lm import prepare

CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 4}
WORDS = {"<s>": 0, "</s>": 1, "yes": 2, "no": 3}


def model(folder, words=WORDS, config=CONFIG):
    write_checkpoint(folder, {"model.embed_tokens.weight": np.ones((len(words), 2), np.float32)}, config)
    tokenizer = Tokenizer(models.WordLevel(dict(words), unk_token="no"))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    (folder / "README.md").write_text("a card")
    return folder


def test_weights_are_linked_and_companions_copied(tmp_path):
    source, base = model(tmp_path / "asset"), tmp_path / "pretrained"
    prepare(source, base)
    assert (base / "model.safetensors").samefile(source / "model.safetensors")
    copied = ["config.json", "tokenizer.json", "tokenizer_config.json"]
    assert sorted(each.name for each in base.iterdir()) == sorted([*copied, "model.safetensors"])
    assert not (base / "tokenizer.json").samefile(source / "tokenizer.json")


def test_a_token_more_than_the_base_is_no_fault(tmp_path):
    prepare(model(tmp_path / "expert", {**WORDS, "[PAD]": 4}), tmp_path / "out", model(tmp_path / "base"))
    assert (tmp_path / "out/model.safetensors").is_file()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"<s>": 0, "</s>": 1, "no": 2, "yes": 3}, "in 2 tokens: 'no' is 2, not 3"),
        ({"<s>": 0, "</s>": 1, "yes": 2, "never": 3}, "3 is 'never', not 'no'"),
    ],
)
def test_a_tokenizer_that_differs_is_refused_with_the_tokens(words, told, tmp_path):
    with pytest.raises(UserError) as error:
        prepare(model(tmp_path / "expert", words), tmp_path / "out", model(tmp_path / "base"))
    assert told in str(error.value) and "expert: its tokenizer differs from that of the base" in str(error.value)
    assert not (tmp_path / "out").exists()


def without_tokenizer(folder):
    (folder / "tokenizer.json").unlink()


def as_gguf(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model-Q4_0.gguf").write_bytes(b"GGUF")


def packed(folder):
    shutil.rmtree(folder)
    codes, scales = np.ones((2, 2), np.int32), np.ones((1, 2), np.float16)
    tensors = {f"model.layers.0.q_proj.{name}": each for name, each in (("qweight", codes), ("scales", scales))}
    write_checkpoint(folder, tensors, {**CONFIG, "quantization_config": {"quant_method": "gptq"}})


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (without_tokenizer, "no tokenizer; expected tokenizer.json, tokenizer.model, vocab.json"),
        (as_gguf, "model-Q4_0.gguf is a GGUF file"),
        (packed, "is quantised according to tensor"),
    ],
)
def test_what_cannot_be_merged_is_refused(damage, told, tmp_path):
    source = model(tmp_path / "asset")
    damage(source)
    with pytest.raises(UserError, match=told):
        prepare(source, tmp_path / "out")
