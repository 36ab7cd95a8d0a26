"""Tiny models of transformers, as the library saves them, are merged to what it loads: weights, heads, ties, and nothing lost."""

import json
import re

import pytest
from layout_models import VISION_LANGUAGE, VIT
from models import merged

from nan_merge.checkpoints.safetensors_file import stored_tensors
from nan_merge.core.errors import UserError
from nan_merge.layouts.unify import unify_layout
from nan_merge.standalone.merge_models import merge

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SUM = {"coefficients": {"constant": {"value": 0.3}}}
WHOLE = {"coefficients": {"constant": {"value": 1.0}}}
TEXT = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12,
        "max_position_embeddings": 24, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
LLAMA = {**TEXT, "num_key_value_heads": 1}
BART = {"vocab_size": 20, "d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "pad_token_id": 0,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 12, "decoder_ffn_dim": 12, "max_position_embeddings": 24,
        "decoder_start_token_id": 1}  # fmt: skip
GPT2 = {"vocab_size": 20, "n_positions": 24, "n_embd": 8, "n_layer": 2, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}
SPEECH = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12,
          "conv_dim": (4,), "conv_stride": (2,), "conv_kernel": (3,), "num_feat_extract_layers": 1,
          "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}  # fmt: skip
MODELS = {
    "llama": ("LlamaForCausalLM", LLAMA), "qwen2": ("Qwen2ForCausalLM", LLAMA),
    "gpt2": ("GPT2LMHeadModel", GPT2),
    "gpt_neox": ("GPTNeoXForCausalLM", TEXT),
    "bloom": ("BloomForCausalLM", {**GPT2, "hidden_size": 8}),
    "opt": ("OPTForCausalLM", {**TEXT, "ffn_dim": 12, "word_embed_proj_dim": 4}), "falcon": ("FalconForCausalLM", TEXT),
    "phi": ("PhiForCausalLM", {**LLAMA, "num_key_value_heads": 2}), "bart": ("BartForConditionalGeneration", BART),
    "marian": ("MarianMTModel", BART),
    "t5": ("T5ForConditionalGeneration", {"vocab_size": 20, "d_model": 8, "d_kv": 4, "d_ff": 12,
                                              "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}),
    "whisper": ("WhisperForConditionalGeneration", {**BART, "num_mel_bins": 4, "max_source_positions": 8,
                                                   "max_target_positions": 8}),
    "bert": ("BertForMaskedLM", TEXT),
    "roberta": ("RobertaForMaskedLM", TEXT),
    "classifier": ("BertForSequenceClassification", TEXT),
    "pretraining": ("BertForPreTraining", TEXT),
    "distilbert": ("DistilBertForMaskedLM", {"vocab_size": 20, "dim": 8, "hidden_dim": 12, "n_layers": 1, "n_heads": 2}),
    "electra": ("ElectraForMaskedLM", {**TEXT, "embedding_size": 4}),
    "albert": ("AlbertForMaskedLM", {**TEXT, "embedding_size": 4}),
    "mixtral": ("MixtralForCausalLM", {**LLAMA, "num_local_experts": 2}),
    "xlnet": ("XLNetLMHeadModel", {"vocab_size": 20, "d_model": 8, "n_layer": 1, "n_head": 2, "d_inner": 12}),
    "vit": ("ViTForImageClassification", VIT), "wav2vec2": ("Wav2Vec2ForCTC", SPEECH),
    "paligemma": ("PaliGemmaForConditionalGeneration", {
        "text_config": {"model_type": "gemma", "head_dim": 4, **LLAMA}, "projection_dim": 8,
        "vision_config": {"model_type": "siglip_vision_model", **VIT, "projection_dim": 8}}),
    **VISION_LANGUAGE,
}  # fmt: skip


def make(name, **changes):
    kind, config = MODELS[name]
    kind = getattr(transformers, kind)
    return kind(kind.config_class(**{**config, **changes}))


def family(tmp_path, name, changes=({}, {}, {}), saved=({}, {}, {})):
    """Save a base and two experts, each parameter moved by N(0, 0.05^2), and return them by name."""
    torch.manual_seed(0)
    models = {}
    for who, change, how in zip(("base", "a", "b"), changes, saved, strict=True):
        model = models[who] = make(name, **change)
        if who != "base":
            model.load_state_dict(models["base"].state_dict(), strict=False)
        move(model)
        model.save_pretrained(tmp_path / who, **how)
    return models


def move(model):
    with torch.no_grad():
        for value in (each for each in model.parameters() if each.requires_grad):  # tables of sines are not stored
            value += 0.05 * torch.randn_like(value)


def loaded(folder, kind):
    """Load a folder with the library, and check that it finds every weight and no other."""
    model, report = kind.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"], report
    return model.eval()


def check(tmp_path, models, **how):
    """Merge, and hold every tensor, tied ones too, against the arithmetic of what the library has in memory."""
    merged(tmp_path / "out", SUM, tmp_path / "base", {name: tmp_path / name for name in "ab"}, **how)
    found = loaded(tmp_path / "out", type(models["base"])).state_dict()
    base, *experts = (model.state_dict() for model in models.values())
    assert found.keys() == base.keys()
    for name in (name for name, value in found.items() if value.is_floating_point()):
        start = base[name].double()
        ends = [expert.get(name, base[name]).double()[tuple(map(slice, start.shape))] for expert in experts]
        assert torch.allclose(found[name].double(), start + 0.3 * sum(end - start for end in ends), atol=1e-6), name


@pytest.mark.parametrize("name", sorted(MODELS.keys() - {"mixtral"}))
def test_the_names_of_the_hub_and_those_in_memory_are_one_network(name, tmp_path):
    check(tmp_path, family(tmp_path, name, saved=({}, {"save_original_format": False}, {})))


TIED = ["llama", "gpt2", "gpt_neox", "bloom", "opt", "falcon", "phi", "bart", "marian", "whisper", "bert", "roberta",
        "distilbert", "electra", "albert", "xlnet"]  # fmt: skip


@pytest.mark.parametrize("tied", [(True, False, True), (False, True, False)], ids=["own head", "base untied"])
@pytest.mark.parametrize("name", TIED)
def test_a_model_that_ties_and_one_that_does_not_are_merged_whole(name, tied, tmp_path):
    check(tmp_path, family(tmp_path, name, [{"tie_word_embeddings": each} for each in tied]))


@pytest.mark.parametrize("untied", ["", "a", "base"])
@pytest.mark.parametrize("name", ["bart", "bert", "gpt_neox", "t5"])
def test_tensors_of_one_memory_in_a_pickle_are_merged_whole(name, untied, tmp_path):
    models = family(tmp_path, name, [{"tie_word_embeddings": who != untied} for who in ("base", "a", "b")])
    for who in ("base", "b"):
        (tmp_path / who / "model.safetensors").unlink()
        torch.save(models[who].state_dict(), tmp_path / who / "pytorch_model.bin")
    check(tmp_path, models)


@pytest.mark.parametrize("name", [*TIED, "qwen2", "t5", "llava", "gemma3"])
def test_rows_of_a_longer_vocabulary_are_dropped_everywhere(name, tmp_path):
    models = family(tmp_path, name)
    models["a"].resize_token_embeddings(23, mean_resizing=False)
    models["a"].save_pretrained(tmp_path / "a")
    check(tmp_path, models)


@pytest.mark.parametrize("name", ["bart", "xlnet", "phi", "bert", "llava"])
def test_a_vocabulary_of_mean_rows_is_loaded_by_the_library(name, tmp_path):
    models = family(tmp_path, name)
    models["a"].resize_token_embeddings(23, mean_resizing=False)
    models["a"].save_pretrained(tmp_path / "a")
    unified = unify_layout(tmp_path / "base", {name: tmp_path / name for name in "ab"}, vocabulary="pad_mean")
    assert unified.config.get("text_config", unified.config)["vocab_size"] == 23
    assert not [name for name, each in unified.base.entries.items() if 20 in each.shape], "a table kept its old rows"


def rename(folder, *pairs):
    """Rename the tensors of a model by regular expressions."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    for old, new in pairs:
        tensors = {re.sub(old, new, name): value for name, value in tensors.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


OLD = {
    "gamma and beta": (["bert", "roberta", "electra", "albert", "classifier"],
                       [(r"LayerNorm\.weight", "LayerNorm.gamma"), (r"LayerNorm\.bias", "LayerNorm.beta")]),
    "weight norm": (["wav2vec2"], [(r"parametrizations\.weight\.original0", "weight_g"),
                                   (r"parametrizations\.weight\.original1", "weight_v")]),
    "compiled blocks": (["llama", "qwen2_5_vl", "opt", "bart"], [(r"layers\.(\d+)\.", r"layers.\1._orig_mod.")]),
    "sharded blocks": (["llama", "vit"], [(r"(layers?)\.(\d+)\.", r"\1.\2._fsdp_wrapped_module._checkpoint_wrapped_module.")]),
    "LLaVA as first published": (["llava"], [
        (r"^vision_tower\.", "model.vision_tower.vision_tower."), (r"^multi_modal_projector\.linear_1", "model.mm_projector.0"),
        (r"^multi_modal_projector\.linear_2", "model.mm_projector.2"), (r"^language_model\.model\.", "model."),
        (r"^language_model\.lm_head", "lm_head")]),
}  # fmt: skip


@pytest.mark.parametrize(("case", "name"), [(case, name) for case, (names, _) in OLD.items() for name in names])
def test_an_expert_with_older_names_is_merged(case, name, tmp_path):
    models = family(tmp_path, name)
    before = set(stored_tensors(tmp_path / "a/model.safetensors"))
    rename(tmp_path / "a", *OLD[case][1])
    assert before != set(stored_tensors(tmp_path / "a/model.safetensors"))
    check(tmp_path, models)


def test_fused_and_separate_experts_of_a_mixture_are_refused_with_the_names_of_both(tmp_path):
    family(tmp_path, "mixtral", saved=({}, {"save_original_format": False}, {}))
    with pytest.raises(UserError, match=r"has no tensor .*experts\.0\.w1\.weight.*have others instead: .*gate_up_proj"):
        unify_layout(tmp_path / "base", {"a": tmp_path / "a"})


@pytest.mark.parametrize("missing", ["error", "base"])
def test_the_command_of_a_message_merges_classifiers_of_a_base_with_heads_of_pretraining(missing, tmp_path):
    """BERT of the hub: gamma and beta, and heads that a classifier lacks, in a tiny model more than 5 % of its parameters."""
    models = family(tmp_path, "pretraining")
    rename(tmp_path / "base", *OLD["gamma and beta"][1])
    for who in "ab":
        classifier = make("classifier")
        classifier.bert.load_state_dict(models[who].bert.state_dict(), strict=False)
        classifier.save_pretrained(tmp_path / who)
    how = {"base": tmp_path / "base", "experts": {who: tmp_path / who for who in "ab"}, "output": tmp_path / "out"}
    with pytest.raises(UserError) as error:
        merge(**how, method="task_arithmetic", missing=missing, quiet=True)
    (pattern,) = re.findall(r"`exclude=\['([^']+)'\]`", str(error.value))
    merge(**how, method="task_arithmetic", exclude=[pattern], quiet=True)
    found, *states = (model.state_dict() for model in (loaded(tmp_path / "out", type(models["base"])), *models.values()))
    for name in found:
        base, a, b = (state[name] for state in states)
        is_merged = name.startswith("bert.") or name == "cls.predictions.decoder.weight"  # which is the embedding
        moved = 0.3 * (a - base + b - base) if is_merged and base.is_floating_point() else 0
        assert torch.allclose(found[name], base + moved, atol=1e-6), name


# ---- adapters, against the model that PEFT trained ------------------------------------------------------------------

UNTIED, SAVED = {"tie_word_embeddings": False}, "modules_to_save"
ADAPTERS = {
    "Conv1D": ("gpt2", {}, ["c_attn", "c_proj", "c_fc"], {"fan_in_fan_out": True}),
    "Conv1D before a Linear": ("gpt2", UNTIED, ["c_proj", "lm_head"], {}),
    "patterns and square roots": ("gpt2", {}, ["c_attn", "c_proj"], {
        "use_rslora": True, "rank_pattern": {"^transformer.h.0.attn.c_proj": 2}, "alpha_pattern": {r"h\.1\..*c_attn": 3}}),
    "a tied head": ("gpt2", {}, ["c_proj", "lm_head"], {}),
    "a tied embedding": ("gpt2", {}, ["c_proj", "wte"], {}),
    "an untied embedding": ("gpt2", UNTIED, ["wte", "wpe"], {}),
    "every linear layer": ("llama", {}, "all-linear", {}),
    "a saved head and embedding": ("llama", UNTIED, ["q_proj"], {SAVED: ["lm_head", "embed_tokens"]}),
    "a saved head that is tied": ("llama", {"tie_word_embeddings": True}, ["q_proj"], {SAVED: ["lm_head"]}),
    "a saved embedding that is tied": ("llama", {"tie_word_embeddings": True}, ["q_proj"], {SAVED: ["embed_tokens"]}),
    "head and embedding that stay tied": ("llama", {"tie_word_embeddings": True}, ["q_proj", "embed_tokens"],
                                          {"ensure_weight_tying": True}),
    "a tied embedding of GPT-NeoX": ("gpt_neox", {"tie_word_embeddings": True}, ["query_key_value", "embed_in"], {}),
    "GPT-NeoX": ("gpt_neox", {}, ["query_key_value", "dense", "dense_4h_to_h"], {SAVED: ["embed_out"]}),
    "BERT": ("classifier", {}, ["query", "word_embeddings"], {"task_type": "SEQ_CLS"}),
    "RoBERTa": ("roberta", {}, "all-linear", {"use_rslora": True}),
    "T5": ("t5", {}, ["q", "wi", "o"], {}),
    "DoRA": ("llama", UNTIED, "all-linear", {"use_dora": True, "use_rslora": True}),
    "DoRA of Conv1D and a table": ("gpt2", UNTIED, ["c_attn", "c_proj", "wte"], {"use_dora": True, "rank_pattern": {"wte": 2}}),
    "DoRA of a convolution": ("vit", {}, ["projection"], {"use_dora": True}),
    "all biases": ("classifier", {}, ["query"], {"bias": "all"}),
    "biases beside the factors": ("gpt2", {}, ["c_attn", "c_proj"], {"bias": "lora_only"}),
    "biases of the factors": ("classifier", {}, ["query", "dense"], {"lora_bias": True, "use_rslora": True}),
    "rows": ("llama", UNTIED, ["q_proj"], {"trainable_token_indices": [9, 4]}),
    "rows of a tied embedding": ("llama", {"tie_word_embeddings": True}, ["q_proj"], {"trainable_token_indices": [9, 4]}),
    "rows by the name of the table": ("gpt2", UNTIED, ["c_attn"], {"trainable_token_indices": {"wte": [9, 4], "wpe": [2]}}),
}  # fmt: skip


@pytest.mark.parametrize("wrong", [False, True], ids=["as written", "fan_in_fan_out turned"])
@pytest.mark.parametrize("case", ADAPTERS)
def test_an_adapter_is_the_model_that_was_trained(case, wrong, tmp_path):
    peft = pytest.importorskip("peft")
    name, changes, targets, how = ADAPTERS[case]
    torch.manual_seed(0)
    model = make(name, **changes).eval()
    model.save_pretrained(tmp_path / "base")
    trained = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets, **how)).eval()
    move(trained)
    trained.save_pretrained(tmp_path / "a")
    if wrong:
        file = tmp_path / "a/adapter_config.json"
        record = json.loads(file.read_text())
        file.write_text(json.dumps({**record, "fan_in_fan_out": not record["fan_in_fan_out"]}))
    merged(tmp_path / "out", WHOLE, tmp_path / "base", {"a": tmp_path / "a"})
    words = torch.arange(3, 11)[None]
    inputs = {"input_ids": words, **({"decoder_input_ids": words} if name == "t5" else {})}
    if name == "vit":
        inputs = {"pixel_values": torch.randn(2, 3, model.config.image_size, model.config.image_size)}
    with torch.no_grad():
        assert torch.allclose(loaded(tmp_path / "out", type(model))(**inputs).logits, trained(**inputs).logits, atol=1e-5)
