"""An adapter from a full fine-tune, loaded by PEFT, is that model up to the stated truncation."""

import json
import re
import warnings

import numpy as np
import pytest
from library_configs import GPT2, LLAMA, VIT

from nan_merge import extract_adapter, merge
from nan_merge.cli import extract_adapter as command
from nan_merge.core.errors import UserError
from nan_merge.core.files import read_json

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

T5 = {"vocab_size": 20, "d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
KINDS = {
    "llama": (transformers.LlamaForCausalLM, LLAMA),
    "a tied llama": (transformers.LlamaForCausalLM, {**LLAMA, "tie_word_embeddings": True}),
    "gpt2": (transformers.GPT2LMHeadModel, {**GPT2, "tie_word_embeddings": False}),
    "a tied gpt2": (transformers.GPT2LMHeadModel, GPT2),
    "vit": (transformers.ViTForImageClassification, VIT),
}


def tuned(folder, kind, changes=lambda name, value: 0.05 * torch.randn_like(value)):
    """Save a base and a model whose parameters were moved: (base, model)."""
    build, config = KINDS[kind]
    torch.manual_seed(0)
    model = build(build.config_class(**config))
    model.save_pretrained(folder / "base")
    with torch.no_grad():
        for name, value in model.named_parameters():
            value += changes(name, value)
    model.save_pretrained(folder / "model")
    return folder / "base", folder / "model"


def outputs(model):
    torch.manual_seed(1)
    words = torch.arange(3, 11)[None]
    inputs = {"pixel_values": torch.randn(2, 3, 8, 8, dtype=torch.float64)} if "ViT" in repr(model) else {"input_ids": words}
    with torch.no_grad():
        return model(**inputs).logits


def loaded(kind, base, adapter=None):
    model = KINDS[kind][0].from_pretrained(base).double()
    if adapter:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*missing adapter keys.*")
            model = peft.PeftModel.from_pretrained(model, adapter).double()
    return model.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_at_full_rank_it_is_the_model(kind, tmp_path):
    base, model = tuned(tmp_path, kind)
    made = extract_adapter(base, model, tmp_path / "adapter", energy=1.0)
    assert torch.allclose(outputs(loaded(kind, base, tmp_path / "adapter")), outputs(loaded(kind, model)), atol=1e-5)
    assert made.adapter["error"]["total"] < 1e-6
    assert made.adapter["modules"] > 3 and made.adapter["whole"] > 0


def test_what_the_rank_leaves_out_is_the_least_and_is_stated(tmp_path):
    base, model = tuned(tmp_path, "llama")
    made = extract_adapter(base, model, tmp_path / "adapter", rank=2)
    assert made.adapter["ranks"] == [2, 2]
    start, end = (loaded("llama", folder).state_dict() for folder in (base, model))
    found = loaded("llama", base, tmp_path / "adapter").merge_and_unload().state_dict()
    stated = read_json(tmp_path / "adapter/provenance.json")
    for name, value in end.items():
        tau = (value - start[name]).numpy()
        lost = np.linalg.norm(found[name].numpy() - value.numpy()) / np.linalg.norm(tau)
        assert lost == pytest.approx(stated["errors"].get(name, 0.0), rel=1e-4, abs=1e-6)
        if name in stated["errors"]:
            values = np.linalg.svd(tau)[1]
            assert lost == pytest.approx(np.linalg.norm(values[2:]) / np.linalg.norm(values), rel=1e-4)
    assert made.adapter["error"]["largest"] == max(stated["errors"].values())
    assert set(stated["errors"]) | set(stated["stored_whole"]) == set(end)


def test_the_rank_is_the_smallest_that_keeps_the_energy(tmp_path):
    """A change of rank 2 with squared singular values 9 : 1 keeps 0.9 with one, and all with two."""

    def change(name, value):
        out = torch.zeros_like(value)
        if value.dim() == 2 and "proj" in name:
            q, r = (torch.linalg.qr(torch.randn(n, 2))[0] for n in value.shape)
            out = 0.1 * (3 * q[:, :1] @ r[:, :1].T + q[:, 1:] @ r[:, 1:].T)
        return out

    base, model = tuned(tmp_path, "llama", change)
    for energy, rank in ((0.85, 1), (0.95, 2), (0.999999, 2)):
        made = extract_adapter(base, model, tmp_path / f"{energy}", energy=energy)
        assert made.adapter["ranks"] == [rank, rank] and made.adapter["whole"] == 0
        assert made.adapter["error"]["total"] == pytest.approx(np.sqrt(0.1) if rank == 1 else 0, rel=1e-3, abs=1e-5)


def test_an_extracted_adapter_is_an_expert_of_a_merge(tmp_path):
    base, model = tuned(tmp_path, "gpt2")
    extract_adapter(base, model, tmp_path / "adapter", energy=1.0)
    how = {"base": base, "method": "task_arithmetic", "set": {"coefficients.constant.value": 1.0}, "quiet": True}
    merge(**how, experts={"it": tmp_path / "adapter"}, output=tmp_path / "out")
    assert torch.allclose(outputs(loaded("gpt2", tmp_path / "out")), outputs(loaded("gpt2", model)), atol=1e-5)


def test_the_command_states_the_error_and_threads_change_no_byte(tmp_path, capsys):
    base, model = map(str, tuned(tmp_path, "llama"))
    command.main([base, model, "--rank", "2", "--output", str(tmp_path / "one"), "--threads", "1"])
    assert re.search(r"15 modules with rank 2, and \d+ tensors stored whole. .* leave out 0\.\d+", capsys.readouterr().out)
    command.main([base, model, "--rank", "2", "--output", str(tmp_path / "three"), "--threads", "3", "--json"])
    assert json.loads(capsys.readouterr().out)["adapter"]["ranks"] == [2, 2]
    one, three = ((tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("one", "three"))
    assert one == three


def test_what_cannot_be_extracted_is_refused_with_a_way_out(tmp_path, capsys):
    base, model = tuned(tmp_path, "llama")
    _, norms = tuned(tmp_path / "norms", "llama", lambda name, value: 0.1 * float("norm" in name))
    out = tmp_path / "out"
    for how, message in (
        ({}, "rank, energy: expected one of both"),
        ({"rank": 2, "energy": 0.5}, "rank, energy: expected one of both"),
        ({"energy": 0.0}, "energy 0.0: expected a share"),
        ({"energy": float("nan")}, "energy nan: expected a share"),
        ({"rank": True}, "rank True: expected a whole number from 1"),
        ({"rank": 9}, r"rank 9: above the size of every matrix, the largest being '.*' \[.*\]; expected from 1 to 8"),
    ):
        with pytest.raises(UserError, match=message):
            extract_adapter(base, model, out, **how)
    t5 = tmp_path / "t5"
    build = transformers.T5ForConditionalGeneration
    for seed, name in enumerate(("base", "model")):
        torch.manual_seed(seed)
        build(build.config_class(**T5)).save_pretrained(t5 / name)
    with pytest.raises(UserError, match=r"moves 'shared.weight', which encoder and decoder share"):
        extract_adapter(t5 / "base", t5 / "model", out, rank=1)
    with pytest.raises(UserError, match="in no matrix of a linear layer"):
        extract_adapter(base, norms, out, rank=1)
    with pytest.raises(UserError, match="are the same model"):
        extract_adapter(base, base, out, rank=1)
    assert not out.exists()
    extract_adapter(base, model, out, rank=1)
    with pytest.raises(UserError, match="out: exists already; choose another output"):
        extract_adapter(base, model, out, rank=1)
    with pytest.raises(UserError, match="is an adapter already"):
        extract_adapter(base, out, tmp_path / "again", rank=1)
    for words in ([], ["--rank", "0"], ["--rank", "1", "--energy", "0.5"]):
        with pytest.raises(SystemExit):
            command.main([str(base), str(model), "--output", str(tmp_path / "no"), *words])
    assert "not allowed with argument" in capsys.readouterr().err
