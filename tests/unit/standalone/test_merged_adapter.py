"""A merge of adapters into an adapter, loaded by PEFT, is the folded merge up to the truncation that it states."""

import json
import re
import warnings

import ml_dtypes
import numpy as np
import pytest
from layout_models import DOWN, QUERY, draw, factors, write, write_adapter
from library_configs import GPT2, LLAMA, VIT
from safetensors.numpy import load_file

from nan_merge import merge_state_dicts
from nan_merge.cli import merge as command
from nan_merge.core.errors import UserError
from nan_merge.core.files import read_json
from nan_merge.standalone.merge_models import merge

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

BERT = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12}
KINDS = {
    "llama": (transformers.LlamaForCausalLM, LLAMA),
    "tied": (transformers.LlamaForCausalLM, {**LLAMA, "tie_word_embeddings": True}),
    "gpt2": (transformers.GPT2LMHeadModel, GPT2),
    "classifier": (transformers.BertForSequenceClassification, BERT),
    "vit": (transformers.ViTForImageClassification, VIT),
}
SUM, NAN, TIES = "task_arithmetic", "task_arithmetic+nan_delta", "ties"
CASES = {  # kind, the experts' targets and further settings, method, rank
    "two ranks and targets": ("llama", {"a": (["q_proj", "up_proj"], {"r": 2}), "b": (["up_proj"], {"r": 3})}, NAN, True),
    "patterns and square roots": ("gpt2", {
        "a": (["c_attn", "c_proj"], {"use_rslora": True, "rank_pattern": {"c_proj": 1}}),
        "b": (["c_attn"], {"alpha_pattern": {r"h\.1\..*c_attn": 3}})}, SUM, True),
    "more ranks than rows": ("llama", {name: (["v_proj", "up_proj"], {"r": 5}) for name in "ab"}, SUM, True),
    "an embedding": ("gpt2", {"a": (["wte", "c_attn"], {}), "b": (["wte"], {})}, NAN, True),
    "a tied embedding": ("tied", {"a": (["embed_tokens"], {}), "b": (["q_proj"], {})}, SUM, True),
    "a tied head": ("tied", {"a": (["lm_head"], {}), "b": (["q_proj", "lm_head"], {})}, SUM, True),
    "both of a tied pair": ("tied", {
        name: (["embed_tokens", "q_proj"], {"ensure_weight_tying": True}) for name in "ab"}, SUM, True),
    "a convolution": ("vit", {"a": (["projection"], {}), "b": (["projection", "query"], {})}, SUM, True),
    "biases": ("llama", {"a": (["q_proj"], {"bias": "all"}), "b": (["q_proj", "v_proj"], {"lora_bias": True})}, SUM, True),
    "saved modules": ("llama", {"a": (["q_proj"], {"modules_to_save": ["norm", "lm_head"]}),
                                "b": (["q_proj", "lm_head"], {})}, NAN, True),
    "saved heads of a classifier": ("classifier", {
        name: (["query"], {"task_type": "SEQ_CLS", "r": 2}) for name in "ab"}, SUM, True),
    "KnOTS": ("llama", {"a": (["q_proj", "up_proj"], {"r": 2}), "b": (["up_proj"], {"r": 3, "use_rslora": True}),
                        "c": (["up_proj", "down_proj"], {"bias": "all"})}, "ties+knots+nan_delta", True),
    "Core Space of Conv1D and a table": ("gpt2", {"a": (["c_attn", "wte"], {"r": 3}), "b": (["wte"], {})}, "ties+core", True),
    "Core Space of a convolution": ("vit", {name: (["projection", "query"], {}) for name in "ab"}, "ties+core", True),
    "Core Space of a tied embedding": ("tied", {"a": (["embed_tokens"], {}), "b": (["q_proj"], {})}, "tsv_m+core", True),
    "Core Space beside saved modules": ("llama", {"a": (["q_proj"], {"modules_to_save": ["norm", "lm_head"]}),
                                                  "b": (["q_proj", "lm_head"], {})}, "ties+core", True),
    "singular directions of cores": ("llama", {name: ("all-linear", {"r": 3}) for name in "ab"}, "tsv_m+core", True),
    "a cut": ("llama", {name: ("all-linear", {"r": 3}) for name in "ab"}, NAN, 2),
    "a cut of Conv1D and a table": ("gpt2", {name: (["c_attn", "wte"], {"r": 3}) for name in "ab"}, SUM, 4),
    "a method that is no sum": ("llama", {name: (["q_proj", "down_proj"], {"r": 2}) for name in "ab"}, TIES, 4),
    "that method on Conv1D and a table": ("gpt2", {name: (["c_attn", "wte"], {"r": 2}) for name in "ab"}, TIES, 3),
    "a cut of a space": ("llama", {name: (["q_proj", "down_proj"], {"r": 2}) for name in "abc"}, "ties+core", 2),
    "DoRA": ("llama", {"a": (["q_proj"], {"use_dora": True}), "b": (["q_proj"], {})}, SUM, 8),
}  # fmt: skip


def trained(folder, kind, experts, dtype=torch.float32):
    """Save a base and adapters of it with random factors."""
    build, config = KINDS[kind]
    torch.manual_seed(0)
    build(build.config_class(**config)).to(dtype).save_pretrained(folder / "base")
    for name, (targets, how) in experts.items():
        model = build.from_pretrained(folder / "base")
        adapter = peft.get_peft_model(model, peft.LoraConfig(target_modules=targets, **{"r": 2, "lora_alpha": 3, **how}))
        with torch.no_grad():
            for value in (each for each in adapter.parameters() if each.requires_grad):
                value += 0.1 * torch.randn_like(value)
        adapter.save_pretrained(folder / name)
    return {"base": folder / "base", "experts": {name: folder / name for name in experts}, "quiet": True}


def loaded(kind, base, adapter=None):
    """Load a model in float64, with an adapter by PEFT, which finds all that it looks for."""
    model = KINDS[kind][0].from_pretrained(base).double()
    if adapter:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*missing adapter keys.*")
            model = peft.PeftModel.from_pretrained(model, adapter).double()
    return model.eval()


def outputs(kind, model):
    torch.manual_seed(1)
    pictures = {"pixel_values": torch.randn(2, 3, 8, 8, dtype=torch.float64)}
    with torch.no_grad():
        return model(**(pictures if kind == "vit" else {"input_ids": torch.arange(3, 11)[None]})).logits


def weights(model):
    return {name: value.numpy() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case][3] is True])
def test_sums_of_factors_are_loaded_by_peft_as_the_folded_merge(case, tmp_path):
    kind, experts, method, rank = CASES[case]
    how = trained(tmp_path, kind, experts)
    merge(**how, method=method, output=tmp_path / "folded")
    made = merge(**how, method=method, output=tmp_path / "adapter", output_adapter=rank)
    found, expected = loaded(kind, tmp_path / "base", tmp_path / "adapter"), loaded(kind, tmp_path / "folded")
    base = outputs(kind, loaded(kind, tmp_path / "base"))
    assert torch.allclose(outputs(kind, found), outputs(kind, expected), atol=1e-6)
    assert not torch.allclose(base, outputs(kind, expected), atol=1e-3)
    assert made.adapter["error"]["largest"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case][3] is not True])
def test_what_a_rank_leaves_out_is_what_is_stated_and_the_least(case, tmp_path):
    kind, experts, method, rank = CASES[case]
    how = trained(tmp_path, kind, experts)
    merge(**how, method=method, output=tmp_path / "folded")
    made = merge(**how, method=method, output=tmp_path / "adapter", output_adapter=rank)
    base, folded = (weights(loaded(kind, tmp_path / name)) for name in ("base", "folded"))
    found = weights(loaded(kind, tmp_path / "base", tmp_path / "adapter").merge_and_unload())
    moved = {name for name in base if not np.array_equal(base[name], folded[name])} - {"lm_head.weight"}
    lost = {name: np.linalg.norm(found[name] - folded[name]) / np.linalg.norm(folded[name] - base[name]) for name in moved}
    least = {name: np.sqrt((np.linalg.svd(folded[name] - base[name])[1][rank:] ** 2).sum()) for name in moved}
    least = {name: value / np.linalg.norm(folded[name] - base[name]) for name, value in least.items()}
    assert lost == pytest.approx(least, rel=1e-4, abs=1e-5)
    stated = made.adapter["error"]
    assert stated["largest"] == pytest.approx(max(lost.values()), rel=1e-4, abs=1e-5)
    squares = {name: np.linalg.norm(folded[name] - base[name]) ** 2 for name in moved}
    total = sum(lost[name] ** 2 * squares[name] for name in moved) / sum(squares.values())
    assert stated["total"] == pytest.approx(np.sqrt(total), rel=1e-4, abs=1e-5)
    assert made.adapter["modules"] == len(moved)
    card, record = (tmp_path / "adapter/README.md").read_text(), read_json(tmp_path / "adapter/provenance.json")
    assert f"{stated['largest']:.3g}" in card and record["adapter"] == made.adapter


def test_an_adapter_is_an_expert_of_the_next_merge(tmp_path):
    """The adapter is read back with its patterns of ranks, and makes the model that it stands for."""
    kind, experts, method, rank = CASES["two ranks and targets"]
    how = trained(tmp_path, kind, experts)
    merge(**how, method=method, output=tmp_path / "folded")
    merge(**how, method=method, output=tmp_path / "adapter", output_adapter=rank)
    assert read_json(tmp_path / "adapter/adapter_config.json")["rank_pattern"]
    one = {
        "base": how["base"],
        "experts": {"it": tmp_path / "adapter"},
        "set": {"coefficients.constant.value": 1.0},
        "quiet": True,
    }
    merge(**one, method=SUM, output=tmp_path / "again")
    found, expected = (weights(loaded(kind, tmp_path / name)) for name in ("again", "folded"))
    assert all(found[name] == pytest.approx(expected[name], abs=1e-6) for name in expected)


def test_peft_sums_the_same_adapters_alike(tmp_path):
    """The same weights in `add_weighted_adapter` of PEFT, by concatenation.

    PEFT 0.21.2 multiplies the sum of rank-stabilised adapters by the square root of the new rank: no reference for those.
    """
    kind = "llama"
    how = trained(tmp_path, kind, {name: (["q_proj", "down_proj"], {}) for name in "ab"})
    made = merge(**how, method=SUM, set={"coefficients.constant.value": 0.7}, output=tmp_path / "adapter", output_adapter=True)
    assert made.coefficients == {name: {"model": 0.7} for name in "ab"}
    theirs = peft.PeftModel.from_pretrained(KINDS[kind][0].from_pretrained(tmp_path / "base"), tmp_path / "a", adapter_name="a")
    theirs.load_adapter(tmp_path / "b", adapter_name="b")
    theirs.add_weighted_adapter(["a", "b"], [0.7, 0.7], "ab", combination_type="cat")
    theirs.set_adapter("ab")
    ours = loaded(kind, tmp_path / "base", tmp_path / "adapter")
    assert torch.allclose(outputs(kind, ours), outputs(kind, theirs.double().eval()), atol=1e-6)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_bytes_depend_on_neither_threads_nor_order(threads, tmp_path):
    how = trained(tmp_path, "llama", {name: ("all-linear", {"r": 3}) for name in "ab"})
    for method, out in ((NAN, "nan"), (TIES, "ties")):
        merge(**how, method=method, output=tmp_path / out, output_adapter=2, threads=1)
        turned = {**how, "experts": dict(reversed(how["experts"].items()))}
        merge(**turned, method=method, output=tmp_path / f"{out}-other", output_adapter=2, threads=threads)
        files = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in (out, f"{out}-other")]
        assert files[0] == files[1]


# ---- the command, and what it refuses -------------------------------------------------------------------------------

Q, D = (name.removesuffix(".weight") for name in (QUERY, DOWN))


@pytest.fixture
def tiny(tmp_path):
    """A base, two adapters and a whole model of a decoder without a library."""
    write(tmp_path / "base", draw(0))
    for seed, name in enumerate("ab"):
        write_adapter(tmp_path / name, {**factors(Q, 6, 6, seed=seed), **factors(D, 6, 10, seed=seed + 2)})
    write(tmp_path / "whole", draw(5))
    return tmp_path


def run(folder, *options, experts=("a", "b"), method=SUM, output="out"):
    words = ["--base", str(folder / "base"), "--method", method, "--output", str(folder / output)]
    command.main([*words, *(word for name in experts for word in ("--expert", f"{name}={folder / name}")), *options])


def test_the_command_states_what_it_left_out_and_how_to_repeat_it(tiny, capsys):
    run(tiny, "--output-adapter", "3")
    said = capsys.readouterr().out
    assert "A LoRA adapter of 2 modules with rank 3. Of the change of these weights, the ranks leave out 0." in said
    card = (tiny / "out/README.md").read_text()
    assert "--output-adapter 3 \\\n" in card and "base_model_relation: adapter\n" in card
    assert f'PeftModel.from_pretrained(base, "{(tiny / "out").name}")' in card
    assert read_json(tiny / "out/adapter_config.json")["base_model_name_or_path"] == str(tiny / "base")
    run(tiny, "--output-adapter", "--json", output="all")
    assert json.loads(capsys.readouterr().out)["adapter"]["ranks"] == [4, 4]
    assert "    --output-adapter \\\n" in (tiny / "all/README.md").read_text()
    run(tiny, "--output-adapter", "3", "--overwrite")


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("method", ["tsv_m", "iso_c", "dc_merge"])
def test_methods_that_level_singular_values_take_no_rounding_of_a_folded_weight_for_a_direction(method, dtype, tmp_path):
    """The merge is that of models whose weights are base + B A in all digits, of a base in 16 bits, too."""
    base = draw(0, dtype=dtype)
    write(tmp_path / "base", base)
    exact, adapters = {"": {name: value.astype(np.float64) for name, value in base.items()}}, {}
    for seed, name in enumerate("ab"):
        pair = factors(D, 6, 10, seed=seed)
        adapters[name] = write_adapter(tmp_path / name, pair)
        b, a = (pair[f"{D}.lora_{side}.weight"].astype(np.float64) for side in "BA")
        exact[name] = {**exact[""], DOWN: exact[""][DOWN] + 1.5 * b @ a}
    expected = merge_state_dicts(exact.pop(""), exact, method=method)[DOWN]
    merge(base=tmp_path / "base", experts=adapters, method=method, output=tmp_path / "out", dtype="float32")
    found = load_file(tmp_path / "out/model.safetensors")[DOWN]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_whole_tensors_are_computed_and_reduced_in_float32_where_it_is_asked_for(tiny):
    for compute in ("float64", "float32"):
        run(tiny, "--output-adapter", "3", "--compute", compute, method="actmat", output=compute)
    exact, found = ((tiny / name / "adapter_model.safetensors").read_bytes() for name in ("float64", "float32"))
    assert exact != found
    errors = [read_json(tiny / name / "provenance.json")["adapter"]["error"]["total"] for name in ("float64", "float32")]
    assert errors[1] == pytest.approx(errors[0], rel=1e-4)


REFUSALS = {
    "a whole model": (("--output-adapter",), {"experts": ("a", "whole")}, "expert 'whole' .* is a whole model; expected LoRA"),
    "a rank above the size": (("--output-adapter", "7"), {}, f"7: above the size of '{QUERY}' .6, 6.; expected from 1 to 6"),
    "no rank of its own": (("--output-adapter",), {"method": "ties"}, "is no weighted sum, so it has no rank of its own"),
    "a type": (("--output-adapter", "--dtype", "float16"), {}, "--dtype: is the type of a whole model"),
    "a model for each task": (("--output-adapter", "2"), {"method": "emr"}, "makes a model for each task"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_no_adapter_can_be_is_refused_before_work_begins(case, tiny):
    options, how, message = REFUSALS[case]
    with pytest.raises(UserError, match=message) as error:
        run(tiny, *options, **how)
    assert not (tiny / "out").exists()
    assert case == "a model for each task" or "--output-adapter" in str(error.value)


def test_no_rank_is_no_rank(tiny, capsys):
    with pytest.raises(SystemExit):
        run(tiny, "--output-adapter", "0")
    assert "expected a whole number from 1" in capsys.readouterr().err
    how = {"base": tiny / "base", "experts": {name: tiny / name for name in "ab"}, "method": SUM, "output": tiny / "out"}
    for rank in (0, -1, False, 2.0, "3"):
        with pytest.raises(UserError, match=re.escape(f"output_adapter {rank}: expected a rank")):
            merge(**how, output_adapter=rank)


def test_adapters_that_tie_differently_or_train_rows_are_refused(tiny):
    write_adapter(tiny / "tying", factors(Q, 6, 6), ensure_weight_tying=True)
    with pytest.raises(UserError, match="some experts have `ensure_weight_tying`"):
        run(tiny, "--output-adapter", experts=("a", "tying"))
    rows = {"model.embed_tokens.token_adapter.trainable_tokens_delta": np.ones((1, 6), np.float32)}
    write_adapter(tiny / "rows", {**factors(Q, 6, 6), **rows}, trainable_token_indices=[3])
    with pytest.raises(UserError, match=r"expert 'rows' .* trains single rows of an embedding"):
        run(tiny, "--output-adapter", experts=("a", "rows"))
    write_adapter(tiny / "saved", {"model.norm.weight": draw(1)["model.norm.weight"]}, modules_to_save=["norm"])
    with pytest.raises(UserError, match="all that the experts move they store whole"):
        run(tiny, "--output-adapter", experts=("saved",))


def test_modules_that_experts_save_and_the_adapter_leaves_out_are_named(tiny):
    """A head that the base lacks, and one that is excluded, in whole or in part; what PEFT asks for is there."""
    head = {"score.weight": np.ones((3, 6), np.float32)}
    write_adapter(tiny / "scores", {**factors(Q, 6, 6, seed=4), **head}, modules_to_save=["score"], task_type="SEQ_CLS")
    how = {"base": tiny / "base", "method": SUM, "output_adapter": True, "quiet": True}
    made = merge(**how, experts={"a": tiny / "a", "scores": tiny / "scores"}, output=tiny / "lacking")
    assert made.notes[-1] == (
        "--output-adapter: left out 1 tensor of the experts' `modules_to_save` that the base lacks: score.weight. PEFT takes what"
        " the model has there"
    )
    assert made.notes[-1] in read_json(tiny / "lacking/provenance.json")["notes"]
    saved = {"lm_head.weight": draw(1)["lm_head.weight"], **factors(Q, 6, 6, seed=4)}
    write_adapter(tiny / "saved", saved, modules_to_save=["lm_head"])
    made = merge(**how, experts={"a": tiny / "a", "saved": tiny / "saved"}, output=tiny / "excluded", exclude=["lm_head"])
    assert "`exclude` leaves at the base: lm_head.weight" in made.notes[-1]
    assert read_json(tiny / "excluded/adapter_config.json")["modules_to_save"] is None
    made = merge(**how, experts={"a": tiny / "a", "saved": tiny / "saved"}, output=tiny / "all")
    assert not any("modules_to_save" in note for note in made.notes)


def test_half_of_a_saved_module_is_completed_by_the_base(tmp_path):
    """PEFT misses no key: it asks for weight and bias of a module."""
    kind = "classifier"
    how = trained(tmp_path, kind, {name: (["query"], {"task_type": "SEQ_CLS"}) for name in "ab"})
    merge(**how, method=SUM, output=tmp_path / "folded", exclude=[r"^classifier\.bias$"])
    made = merge(**how, method=SUM, output=tmp_path / "adapter", output_adapter=True, exclude=[r"^classifier\.bias$"])
    assert "`exclude` leaves at the base: classifier.bias" in made.notes[-1]
    found, expected = loaded(kind, tmp_path / "base", tmp_path / "adapter"), loaded(kind, tmp_path / "folded")
    assert torch.allclose(outputs(kind, found), outputs(kind, expected), atol=1e-6)
