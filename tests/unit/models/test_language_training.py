"""Fine-tuning of causal language models on the answers to prompts, against the loss of transformers."""

from pathlib import Path

import numpy as np
import pytest
import tiny_gguf
import tiny_language
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from nan_merge.core.errors import UserError
from nan_merge.models.families import causal_lm
from nan_merge.models.harness.tasks import Benchmark, load_tasks, training_pairs
from nan_merge.models.language_training import answer_loss, finetune

PAIRS = [("What is 3?", " A"), ("What is 4 and anatomy? Answer:", " B and C\n"), ("Answer", ": D")]
SETTINGS = {"learning_rate": 1e-2, "steps": 20, "batch_size": 4, "weight_decay": 0.0, "frozen": ["embed_tokens"]}
TASKS = {"plural": "linguistic_mappings/plural_json", "units": "unit_conversion/unit_identification"}
BIGBENCH = {"folder": "bigbench_splits"}


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=400, initializer_range=0.3, **shape))


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=400, n_embd=16, n_layer=2, n_head=2, n_positions=64, initializer_range=0.3)
    ).eval()


@pytest.mark.parametrize("make", [llama, gpt2])
def test_padding_changes_no_loss_and_only_answers_count(make):
    model, tokenizer = make(), tiny_language.make_tokenizer()
    losses, counts = [], []
    for prompt, answer in PAIRS:  # one at a time, by the loss of transformers
        ids = torch.tensor([tokenizer(prompt + answer)["input_ids"]])
        asked = len(tokenizer(prompt)["input_ids"])
        labels = ids.clone()
        labels[:, :asked] = -100
        losses.append(model(input_ids=ids, labels=labels).loss.item())
        counts.append(ids.shape[1] - asked)
    assert answer_loss(model, tokenizer, PAIRS).item() == pytest.approx(np.average(losses, weights=counts), rel=1e-5)


def test_training_lowers_the_loss_is_repeated_and_keeps_what_is_frozen():
    tokenizer, before = tiny_language.make_tokenizer(), llama().state_dict()
    first, second = llama(), llama()
    losses = finetune(first, tokenizer, [PAIRS[:2], PAIRS[2:]], SETTINGS, seed=3)
    finetune(second, tokenizer, [PAIRS[:2], PAIRS[2:]], SETTINGS, seed=3)
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])
        assert torch.equal(tensor, before[name]) == (name == "model.embed_tokens.weight"), name


def test_a_setting_that_is_missing_is_named():
    with pytest.raises(UserError, match=r"`finetune:` of the suite: missing \['frozen'\]"):
        finetune(llama(), tiny_language.make_tokenizer(), [PAIRS], {k: v for k, v in SETTINGS.items() if k != "frozen"}, 0)


@pytest.fixture
def bigbench(tmp_path: Path) -> Path:
    tiny_gguf.tasks(tmp_path / "bigbench", [*TASKS.values()])
    return tmp_path / "bigbench"


@pytest.mark.parametrize("task", TASKS)
def test_splits_share_no_input_and_train_has_the_rest(bigbench, tmp_path, task):
    (found,) = load_tasks(Benchmark(task, bigbench, {**BIGBENCH, "tasks": [f"bigbench_{task}"]}), tmp_path).values()
    inputs = [{row["input"] for row in rows} for rows in (found.training_docs(), found.validation_docs(), found.test_docs())]
    assert [len(each) for each in inputs] == [70, 100, 150]
    assert len(set().union(*inputs)) == 320


def test_training_answers_are_what_is_scored(bigbench, tmp_path):
    plural, units = (
        training_pairs(Benchmark(task, bigbench, {**BIGBENCH, "tasks": [f"bigbench_{task}"]}), tmp_path)
        for task in ("plural", "units")
    )
    assert {(prompt[:9], answer) for prompt, answer in plural} == {("Noun: red", " stop\n"), ("Noun: gre", " go\n")}
    assert all(prompt.endswith("\nPlural:") for prompt, _ in plural)
    assert {(prompt[:3], answer) for prompt, answer in units} == {("red", " stop"), ("gre", " go")}  # a choice has no end


def test_a_task_without_training_data_is_named(tmp_path):
    tiny_language.publish(tmp_path)
    harness = {"folder": "mmlu/default", "tasks": ["mmlu_anatomy"]}
    with pytest.raises(UserError, match=r"mmlu: harness: mmlu_anatomy has no training split; leave it out of `finetune: tasks:`"):
        training_pairs(Benchmark("mmlu", tmp_path / "datasets/tiny/mmlu", harness), tmp_path)


def test_a_missing_file_of_bigbench_is_named(bigbench, tmp_path):
    (bigbench / TASKS["plural"] / "task.json").unlink()
    with pytest.raises(UserError, match=r"plural: harness: .*bigbench: the data are not of the form.*plural_json/task.json"):
        load_tasks(Benchmark("plural", bigbench, {**BIGBENCH, "tasks": ["bigbench_plural"]}), tmp_path)


def test_a_gguf_base_is_unpacked_into_a_folder_that_loads(tmp_path):
    unpacked = tiny_gguf.write(tmp_path / "asset/model.gguf")
    causal_lm.dequantise(tmp_path / "asset", tmp_path / "base")
    found = load_file(tmp_path / "base/model.safetensors")
    assert found.keys() == unpacked.keys()  # the tied head is stored once
    assert all(np.array_equal(found[name], unpacked[name]) for name in unpacked)
    _, loading = AutoModelForCausalLM.from_pretrained(tmp_path / "base", output_loading_info=True)
    assert not any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert causal_lm.tokens(tmp_path / "base").items() >= dict(tiny_language.make_tokenizer().get_vocab()).items()


@pytest.mark.parametrize("files", [[], ["a.gguf", "b.gguf"]])
def test_one_gguf_file_is_expected(tmp_path, files):
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=f"expected one GGUF file .*, found {'; '.join(files) or 'none'}"):
        causal_lm.dequantise(tmp_path, tmp_path / "base")


def test_a_damaged_gguf_file_is_named(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + bytes(20))
    with pytest.raises(UserError, match=r"a\.gguf: transformers cannot unpack it"):
        causal_lm.dequantise(tmp_path, tmp_path / "base")
    assert not (tmp_path / "base").exists()
