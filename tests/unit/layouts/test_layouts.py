"""Layouts of real checkpoints: which models `unify_layout` brings to the layout of the base, its notes, and its refusals."""

import itertools
import json

import numpy as np
import pytest
import torch
from layout_models import (
    CONFIG,
    DOWN,
    EMBEDDING,
    HEAD,
    LLAMA,
    NORM,
    QUERY,
    all_floats,
    draw,
    expert,
    factors,
    values,
    write,
    write_adapter,
    write_pickle,
)
from models import measures, merge_measured, merged

from nan_merge.checkpoints.checkpoint import Checkpoint
from nan_merge.core import patterns
from nan_merge.core.errors import UserError
from nan_merge.engine import measure
from nan_merge.layouts import updates
from nan_merge.layouts.unify import check_distinct, unify_layout
from nan_merge.methods.recipe import bind

TIED = {**CONFIG, "tie_word_embeddings": True}
SUM = {"coefficients": {"constant": {"value": 0.3}}}
MASKS = {
    "h.0.attn.bias": np.tril(np.ones((1, 1, 4, 4), np.float32)),
    "h.0.attn.masked_bias": np.array(-1e4, np.float32),
    "h.0.rotary_emb.inv_freq": np.ones(3, np.float32),
    "h.0.position_ids": np.ones((1, 4), np.float32),
}


@pytest.fixture
def base(tmp_path):
    return write(tmp_path / "base", draw(0))


def renamed(tensors, old, new):
    return {name.replace(old, new, 1) if name.startswith(old) else name: array for name, array in tensors.items()}


def without(tensors, *names):
    return {name: array for name, array in tensors.items() if name not in names}


def refused(message, *args, **how):
    with pytest.raises(UserError, match=message) as error:
        unify_layout(*args, **how)
    return str(error.value)


def same(models, tensors, name="a"):
    """Say whether an expert has these tensors under the names of the base."""
    return all(expert(models, name, n).tobytes() == tensors[n].tobytes() for n in models.merged)


# ---- names ----------------------------------------------------------------------------------------------------------


def test_models_of_one_layout_are_taken_as_they_are(base, tmp_path):
    models = unify_layout(base, {"b": write(tmp_path / "b", draw(2)), "a": write(tmp_path / "a", draw(1))})
    assert (models.merged, models.config, models.notes) == (tuple(LLAMA), {}, ())
    assert list(models.experts) == ["a", "b"]
    assert same(models, draw(1))


@pytest.mark.parametrize(
    ("there", "here", "done"),
    [
        ("transformer.", "", "the prefix 'transformer.' was stripped from 9 names"),
        ("", "language_model.", "the prefix 'language_model.' was added to 9 names"),
        ("model.", "", "the prefix 'model.' was stripped from 8 names"),
        ("", "base.model.", "the prefix 'base.model.' was added to 9 names"),
    ],
)
def test_one_prefix_is_found_from_the_names_and_said(there, here, done, tmp_path):
    tensors, named = draw(1), draw(0)
    if there == "model.":  # the head stands beside it
        origin, other = renamed(named, "model.", ""), tensors
    else:
        origin, other = ({f"{prefix}{n}": a for n, a in m.items()} for prefix, m in ((here, named), (there, tensors)))
    models = unify_layout(write(tmp_path / "base", origin), {"a": write(tmp_path / "a", other)})
    assert models.notes == (f"expert 'a': {done}",)
    assert same(models, dict(zip(origin, tensors.values(), strict=True)))


def test_a_prefix_that_is_not_clear_is_a_mismatch(tmp_path):
    shapes = {f"h.{layer}.w": (2, 2) for layer in range(3)}
    twice = {f"{half}.{name}": shape for half in ("encoder", "decoder") for name, shape in shapes.items()}
    base, a = write(tmp_path / "base", draw(0, twice), None), write(tmp_path / "a", draw(1, shapes), None)
    refused("6 tensors do not match .* 'a' has no tensor 'encoder.h.0.w'", base, {"a": a})
    few = write(tmp_path / "few", draw(0, {**shapes, "x.h.0.w": (2, 2)}), None)
    other = draw(1, {f"y.z.{n}" if n == "h.1.w" else f"strange.{i}": s for i, (n, s) in enumerate(shapes.items())})
    refused("4 tensors do not match", few, {"a": write(tmp_path / "other", other, None)})


def test_extra_tensors_are_left_out_and_counted(base, tmp_path):
    extra = {"score.weight": np.ones((3, 6), np.float32), "score.bias": np.ones(3, np.float32), **MASKS}
    models = unify_layout(base, {"a": write(tmp_path / "a", {**draw(1), **extra})})
    assert models.notes == ("expert 'a': left out 2 tensors that the base lacks: score.weight; score.bias",)
    assert same(models, draw(1))


def test_missing_tensors_are_listed_with_the_ways_out(base, tmp_path):
    folder = write(tmp_path / "a", without(draw(1), HEAD, NORM))
    message = refused("2 tensors do not match the base .* 'a' has no tensor 'model.norm.weight'", base, {"a": folder})
    assert "`merge: exclude:`" in message
    assert "`merge: missing: base`" in message
    models = unify_layout(base, {"a": folder}, [r"^lm_head\.", r"norm\.weight$"])
    assert HEAD not in models.merged


def test_a_missing_tensor_may_stay_at_the_base(base, tmp_path):
    models = unify_layout(base, {"a": write(tmp_path / "a", without(draw(1), NORM))}, missing="base")
    assert models.notes == (f"expert 'a': it lacks 1 tensor, which it leaves at the base: {NORM}",)
    found = measure.norms(models)["tensors"]
    assert found[NORM]["task_vector"] == [0.0]
    assert found[HEAD]["task_vector"][0] > 0
    assert expert(models, "a", NORM).tobytes() == draw(0)[NORM].tobytes()
    refused("merge: missing: unknown 'skip'; expected error or base", base, {"a": base}, missing="skip")


def test_a_network_that_is_missing_does_not_stay_at_the_base(base, tmp_path):
    folder = write(tmp_path / "a", {NORM: draw(1)[NORM], **{f"net.{n}.w": a for n, a in draw(1, {"0": (3,)}).items()}})
    message = refused(r"expert 'a' \(.*\) lacks \d\d% of the parameters of the base", base, {"a": folder}, missing="base")
    assert "model.layers (" in message and "it has others: net.0.w" in message


# ---- buffers --------------------------------------------------------------------------------------------------------


def test_buffers_are_copied_and_not_required(tmp_path):
    tensors = {"h.0.attn.c_attn.bias": (6,), "h.0.attn.c_attn.weight": (2, 6), "attention.bias": (4,), "attn.bias": (2, 2)}
    base = write(tmp_path / "base", {**draw(0, tensors), **MASKS})
    a = write(tmp_path / "a", draw(1, tensors))
    b = write(tmp_path / "b", {**draw(2, tensors), **{name: 2 * mask for name, mask in MASKS.items()}})
    models = unify_layout(base, {"a": a, "b": b})
    assert set(models.merged) == set(tensors), "real biases are merged"
    assert models.notes == ()
    found = merged(tmp_path / "out", SUM, base, {"a": a, "b": b})
    assert all(found[name].tobytes() == mask.tobytes() for name, mask in MASKS.items())


# ---- tied weights ---------------------------------------------------------------------------------------------------


def tied(seed):
    tensors = draw(seed)
    return {**tensors, HEAD: tensors[EMBEDDING]}


@pytest.mark.parametrize("config", [TIED, {"model_type": "llama"}, None], ids=["said", "unsaid", "no config"])
def test_tied_weights_are_counted_and_written_once(config, tmp_path):
    base = write(tmp_path / "base", tied(0), config)
    folders = {"a": write(tmp_path / "a", tied(1), config), "b": write(tmp_path / "b", without(tied(2), HEAD), config)}
    models = unify_layout(base, folders)
    assert models.notes == (f"base: '{HEAD}' is tied to '{EMBEDDING}', so it is counted and written once",)
    assert models.merged == tuple(without(LLAMA, HEAD))
    found = merged(tmp_path / "out", SUM, base, folders)
    assert found.keys() == without(LLAMA, HEAD).keys()


def test_weights_that_the_config_keeps_apart_are_two(tmp_path):
    base = write(tmp_path / "base", tied(0), CONFIG)
    assert HEAD in unify_layout(base, {"a": write(tmp_path / "a", draw(1))}).merged
    different = write(tmp_path / "different", draw(0), TIED)  # transformers 5 does not tie what differs
    assert HEAD in unify_layout(different, {"a": write(tmp_path / "b", draw(1), TIED)}).merged


def test_one_memory_in_a_pickle_is_one_tensor(tmp_path):
    shared, bias = torch.ones(12, 6), torch.ones(12)
    state = {
        "encoder.embed_tokens.weight": shared,
        "shared.weight": shared,
        "lm_head.weight": torch.zeros(12, 6),
        "cls.predictions.decoder.bias": bias,
        "cls.predictions.bias": bias,
    }
    models = unify_layout(write_pickle(tmp_path / "base", state), {"a": write_pickle(tmp_path / "a", state)})
    assert models.merged == ("shared.weight", "lm_head.weight", "cls.predictions.decoder.bias", "cls.predictions.bias")
    models = unify_layout(write_pickle(tmp_path / "tied", state, TIED), {"a": write_pickle(tmp_path / "b", state, TIED)})
    assert models.merged == ("shared.weight", "lm_head.weight", "cls.predictions.decoder.bias")
    assert models.base.shards == {"pytorch_model.bin": list(models.merged)}


def test_a_shard_that_held_a_tied_head_alone_is_none(tmp_path):
    base = write(tmp_path / "base", tied(0), TIED)
    body, head = Checkpoint(base), write(tmp_path / "head", {HEAD: tied(0)[HEAD]}, None)
    places = {name: "2.safetensors" if name == HEAD else "1.safetensors" for name in body.names}
    (head / "model.safetensors").rename(base / "2.safetensors")
    (base / "model.safetensors").unlink()
    write(tmp_path / "body", without(tied(0), HEAD))
    (tmp_path / "body/model.safetensors").rename(base / "1.safetensors")
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert list(unify_layout(base, {"a": write(tmp_path / "a", tied(1), TIED)}).base.shards) == ["1.safetensors"]


def test_an_expert_that_ties_what_the_base_does_not_has_its_embedding_for_a_head(base, tmp_path):
    tensors = without(draw(1), HEAD)
    models = unify_layout(base, {"a": write(tmp_path / "a", tensors, TIED)})
    assert models.notes == (f"expert 'a': it ties '{HEAD}', which it does not store, to '{EMBEDDING}'; the base has both",)
    assert same(models, {**tensors, HEAD: tensors[EMBEDDING]})
    refused("'a' has no tensor 'lm_head.weight'", base, {"a": write(tmp_path / "untied", tensors)})


def test_a_tied_expert_may_store_either_name(tmp_path):
    base = write(tmp_path / "base", tied(0), TIED)
    models = unify_layout(base, {"a": write(tmp_path / "a", without(tied(1), EMBEDDING), TIED)})
    assert same(models, tied(1))


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "not stored"])
def test_a_head_that_an_expert_trained_apart_is_written_and_untied(stored, tmp_path):
    """The base and expert `b` tie the head; `a` has one of its own: E0 + 0.3 ((Ha - E0) + (Eb - E0))."""
    start = tied(0) if stored else without(draw(0), HEAD)
    folders = {"a": write(tmp_path / "a", draw(1)), "b": write(tmp_path / "b", without(draw(2), HEAD), TIED)}
    base = write(tmp_path / "base", start, TIED)
    models = unify_layout(base, folders)
    assert models.config == {"tie_word_embeddings": False}
    assert any(f"its own '{HEAD}' differs from its '{EMBEDDING}'" in note for note in models.notes)
    found = merged(tmp_path / "out", SUM, base, folders)
    origin, head, a, b = (
        x.astype(np.float64) for x in (draw(0)[EMBEDDING], draw(1)[HEAD], draw(1)[EMBEDDING], draw(2)[EMBEDDING])
    )
    assert found[HEAD] == pytest.approx(origin + 0.3 * ((head - origin) + (b - origin)), rel=1e-5, abs=1e-6)
    assert found[EMBEDDING] == pytest.approx(origin + 0.3 * ((a - origin) + (b - origin)), rel=1e-5, abs=1e-6)
    assert json.loads((tmp_path / "out/config.json").read_text())["tie_word_embeddings"] is False


def test_a_head_that_an_adapter_moves_is_untied(tmp_path):
    base = write(tmp_path / "base", without(draw(0), HEAD), TIED)
    moves = factors("lm_head", 12, 6)
    models = unify_layout(base, {"a": write_adapter(tmp_path / "a", moves)})
    a, b = (moves[f"lm_head.lora_{side}.weight"].astype(np.float64) for side in "AB")
    assert expert(models, "a", HEAD) == pytest.approx(draw(0)[EMBEDDING] + 1.5 * b @ a, rel=1e-5)
    assert expert(models, "a", EMBEDDING).tobytes() == draw(0)[EMBEDDING].tobytes()
    assert models.config == {"tie_word_embeddings": False}


LEFT = {
    "llama": ({}, EMBEDDING, HEAD),
    "gpt_neox": ({"model_type": "gpt_neox"}, "gpt_neox.embed_in.weight", "embed_out.weight"),
    "LLaVA": ({"model_type": "llava"}, "language_model.model.embed_tokens.weight", "language_model.lm_head.weight"),
}


@pytest.mark.parametrize("stored", [False, True], ids=["not stored", "stored"])
@pytest.mark.parametrize("case", LEFT)
def test_a_tied_head_stays_where_an_adapter_moves_the_embedding_alone(case, stored, tmp_path):
    """PEFT: the head keeps the weight W of the base, the embedding is W + 3/2 (B A) transposed, or what was saved whole."""
    changes, table, head = LEFT[case]
    start = draw(0, {table: (12, 6), "model.norm.weight": (6,)})
    base = write(tmp_path / "base", {**start, **({head: start[table]} if stored else {})}, {**TIED, **changes})
    module = table.removesuffix(".weight")
    moves = draw(1, {f"{module}.lora_embedding_A": (2, 12), f"{module}.lora_embedding_B": (6, 2)})
    a, b = (array.astype(np.float64) for array in moves.values())
    models = unify_layout(base, {"a": write_adapter(tmp_path / "a", moves)})
    assert expert(models, "a", table) == pytest.approx(start[table] + 1.5 * (b @ a).T, rel=1e-5)
    assert expert(models, "a", head).tobytes() == start[table].tobytes()
    assert models.config == {"tie_word_embeddings": False}
    whole = {table: draw(2, {table: (12, 6)})[table]}
    models = unify_layout(base, {"a": write_adapter(tmp_path / "b", whole, modules_to_save=["embed_tokens", "embed_in"])})
    assert expert(models, "a", table).tobytes() == whole[table].tobytes()
    assert expert(models, "a", head).tobytes() == start[table].tobytes()
    tied = write_adapter(tmp_path / "c", moves, ensure_weight_tying=True)
    assert head not in unify_layout(base, {"a": tied}).merged


def test_an_embedding_whose_head_has_no_known_name_is_not_moved_alone(tmp_path):
    table = "bert.embeddings.word_embeddings.weight"
    moves = draw(
        1, {f"{table.removesuffix('.weight')}.lora_embedding_{s}": shape for s, shape in (("A", (2, 12)), ("B", (6, 2)))}
    )
    adapter, config = write_adapter(tmp_path / "a", moves), {**TIED, "model_type": "bert"}
    base = write(tmp_path / "base", draw(0, {table: (12, 6)}), {**config, "architectures": ["BertForMaskedLM"]})
    refused("moves 'bert.embeddings.word_embeddings.weight', but not the output head", base, {"a": adapter})
    base = write(tmp_path / "classes", draw(0, {table: (12, 6)}), {**config, "architectures": ["BertForSequenceClassification"]})
    assert unify_layout(base, {"a": adapter}).config == {}


def test_a_head_of_t5_is_not_untied(tmp_path):
    t5 = {"model_type": "t5", "tie_word_embeddings": True}
    tensors = {"shared.weight": (12, 6), "encoder.block.0.layer.0.SelfAttention.q.weight": (6, 6)}
    folder = write(tmp_path / "a", draw(1, {**tensors, HEAD: (12, 6)}), {**t5, "tie_word_embeddings": False})
    refused("type t5 scales what enters a tied head", write(tmp_path / "base", draw(0, tensors), t5), {"a": folder})


def test_transformers_ties_again_what_is_written_once(tmp_path):
    transformers = pytest.importorskip("transformers")
    shape = {"vocab_size": 12, "n_embd": 4, "n_layer": 1, "n_head": 1, "n_positions": 4, "bos_token_id": 0, "eos_token_id": 0}
    for seed, name in enumerate(("base", "a")):
        torch.manual_seed(seed)
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape))
        folder = tmp_path / name
        model.save_pretrained(folder)
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    models, *measured = measures(SUM, tmp_path / "base", {"a": tmp_path / "a"})
    merge_measured(models, *measured, tmp_path / "out")
    loaded, report = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert loaded.lm_head.weight is loaded.transformer.wte.weight
    start, end = (torch.load(tmp_path / n / "pytorch_model.bin")["lm_head.weight"].numpy() for n in ("base", "a"))
    assert loaded.lm_head.weight.detach().numpy() == pytest.approx(start + 0.3 * (end - start), rel=1e-5, abs=1e-7)


# ---- rows of the vocabulary -----------------------------------------------------------------------------------------


def longer(tensors, rows, *names):
    """Add rows of tens to the end of tensors."""
    more = {n: np.full((rows, *tensors[n].shape[1:]), 10, tensors[n].dtype) for n in names}
    return {n: np.concatenate([array, more[n]]) if n in more else array for n, array in tensors.items()}


def test_rows_behind_those_of_the_base_are_dropped(base, tmp_path):
    models = unify_layout(base, {"a": write(tmp_path / "a", longer(draw(1), 2, EMBEDDING, HEAD))})
    assert same(models, draw(1))
    assert models.config == {}
    assert models.notes == tuple(f"expert 'a': dropped 2 rows of '{n}' behind the base's 12" for n in (EMBEDDING, HEAD))


def test_rows_that_an_expert_lacks_stay_where_the_others_put_them(base, tmp_path):
    short = {name: array[:10] if name in (EMBEDDING, HEAD) else array for name, array in draw(1).items()}
    folders = {"a": write(tmp_path / "a", short), "b": write(tmp_path / "b", draw(2))}
    models = unify_layout(base, folders)
    assert [note for note in models.notes if EMBEDDING in note and "'a'" in note and "2" in note], models.notes
    found = merged(tmp_path / "out", SUM, base, folders)
    for name in (EMBEDDING, HEAD):
        start, b = (draw(seed)[name].astype(np.float64) for seed in (0, 2))
        expected = start + 0.3 * (b - start)
        expected[:10] += 0.3 * (short[name].astype(np.float64) - start[:10])
        assert found[name] == pytest.approx(expected, rel=1e-5, abs=1e-6)
    refused("unknown 'pad'; expected truncate or pad_mean", base, {"a": base}, vocabulary="pad")


@pytest.mark.parametrize("dtype", all_floats().values(), ids=all_floats())
def test_mean_rows_bring_all_models_to_the_most_rows(dtype, tmp_path):
    models = {"base": draw(0, dtype=dtype), "a": longer(draw(1, dtype=dtype), 3, EMBEDDING, HEAD), "b": draw(2, dtype=dtype)}
    models["b"] = {**models["b"], EMBEDDING: models["b"][EMBEDDING][:10]}
    folders = {name: write(tmp_path / name, tensors) for name, tensors in models.items()}
    found = unify_layout(folders.pop("base"), folders, vocabulary="pad_mean")
    for name, checkpoint in {"base": found.base, **found.experts}.items():
        for tensor in (EMBEDDING, HEAD):
            own = models[name][tensor]
            mean = own.astype(np.float64).mean(axis=0).astype(dtype)
            expected = np.concatenate([own, *[mean[None]] * (15 - len(own))])
            assert values(checkpoint, tensor).tobytes() == expected.tobytes()
    assert found.config == {"vocab_size": 15}
    assert "base: added 3 mean rows to the 12 of 'lm_head.weight'" in found.notes
    assert "expert 'b': added 5 mean rows to the 10 of 'model.embed_tokens.weight'" in found.notes


def test_a_longer_vocabulary_reaches_the_written_model(base, tmp_path):
    models = unify_layout(base, {"a": write(tmp_path / "a", longer(draw(1), 1, EMBEDDING, HEAD))}, vocabulary="pad_mean")
    recipe = bind(SUM)
    merge_measured(models, recipe, recipe.estimate(measure.norms(models)), {}, tmp_path / "out")
    assert json.loads((tmp_path / "out/config.json").read_text()) == {**CONFIG, "vocab_size": 13}
    assert Checkpoint(tmp_path / "out").shape(HEAD) == (13, 6)


def test_the_vocabulary_of_a_nested_language_model_is_changed_where_it_stands(tmp_path):
    nested = {"model_type": "llava", "text_config": {"model_type": "llama", "vocab_size": 12, "hidden_size": 6}}
    base = write(tmp_path / "base", draw(0), nested)
    a = write(tmp_path / "a", longer(draw(1), 1, EMBEDDING, HEAD), nested)
    changes = unify_layout(base, {"a": a}, vocabulary="pad_mean").config
    assert changes == {"text_config": {"model_type": "llama", "vocab_size": 13, "hidden_size": 6}}


def test_rows_of_anything_else_are_a_mismatch(tmp_path):
    shapes = {EMBEDDING: (12, 6), "score.weight": (3, 6), "classifier.weight": (3, 6), "decoder.weight": (3, 6)}
    base = write(tmp_path / "base", draw(0, shapes))
    for name in without(shapes, EMBEDDING):
        folder = write(tmp_path / name, longer(draw(1, shapes), 1, name))
        for vocabulary in ("truncate", "pad_mean"):
            refused(rf"'{name}' is \[4, 6\], expected \[3, 6\]", base, {"a": folder}, vocabulary=vocabulary)
    wide = write(tmp_path / "wide", draw(1, {**shapes, EMBEDDING: (12, 7)}))
    refused(r"'model.embed_tokens.weight' is \[12, 7\], expected \[12, 6\]", base, {"a": wide})


# ---- models that cannot be merged -----------------------------------------------------------------------------------


def test_another_architecture_is_named_before_any_tensor(base, tmp_path):
    other = write(tmp_path / "other", draw(1, {"w": (2,)}), {"model_type": "gpt2"})
    message = refused("expert 'a' .* is a model of type gpt2, the base .* of type llama", base, {"a": other})
    assert "fine-tuned from this base" in message
    nested = {"model_type": "llava", "text_config": {"model_type": "llama"}}
    assert unify_layout(write(tmp_path / "vlm", draw(0), nested), {"a": write(tmp_path / "a", draw(1))}).merged
    assert unify_layout(base, {"a": write(tmp_path / "unsaid", draw(1), {})}).merged


QUANTISED = {
    "a label and packed integers": (
        {"h.0.fc.weight": np.ones((4, 1), np.uint8)},
        {"quantization_config": {"load_in_4bit": True}},
        r"tensor 'h.0.fc.weight' \(U8\) and `quantization_config` of its config.json",
    ),
    "packed integers with scales, no label": (
        {"h.0.fc.weight": np.ones((4, 1), np.int8), "h.0.fc.weight_scale": np.ones(4, np.float32)},
        {},
        r"tensor 'h.0.fc.weight' \(I8\)",
    ),
    "GPTQ": ({"h.0.fc.qweight": np.ones(4, np.int32)}, {}, "tensor 'h.0.fc.qweight'"),
    "compressed-tensors": ({"h.0.fc.weight_packed": np.ones((4, 1), np.int32)}, {}, "tensor 'h.0.fc.weight_packed'"),
    "ModelOpt": ({"h.0.fc.weight_scale_2": np.ones(1, np.float32)}, {}, "tensor 'h.0.fc.weight_scale_2'"),
    "codes in vectors, with a label": (
        {"h.0.fc.col_vals": np.ones(4, np.int32)},
        {"quantization_config": {"quant_method": "spqr"}},
        r"tensor 'h.0.fc.col_vals' \(I32\)",
    ),
    "AWQ": ({"h.0.fc.qzeros": np.ones((4, 1), np.int32)}, {}, "tensor 'h.0.fc.qzeros'"),
    "MXFP4": (
        {
            "h.0.mlp.experts.down_proj_blocks": np.ones((2, 4, 1, 4), np.uint8),
            "h.0.mlp.experts.down_proj_scales": np.ones((2, 4, 1), np.uint8),
        },
        {},
        "tensor 'h.0.mlp.experts.down_proj_",
    ),
    "HQQ": ({"h.0.fc.W_q": np.ones((4, 1), np.uint8)}, {}, "tensor 'h.0.fc.W_q'"),
    "EETQ": (
        {"h.0.fc.weight": np.ones((4, 1), np.int8), "h.0.fc.weight_scales": np.ones(4, np.float32)},
        {},
        "tensor 'h.0.fc.weight'",
    ),
    "ModelOpt NVFP4": (
        {"h.0.fc.weight": np.ones((4, 1), np.uint8), "h.0.fc.weight_scale_2": np.ones((), np.float32)},
        {},
        "tensor 'h.0.fc.weight",
    ),
    "fbgemm_fp8": (
        {"fc.weight": np.ones((2, 2), all_floats()["float8_e4m3fn"]), "fc.weight_scale": np.ones((2, 1), np.float32)},
        {},
        "tensor 'fc.weight'",
    ),
    "bitsandbytes of 8 bit": (
        {"h.0.fc.weight": np.ones((4, 4), np.int8), "h.0.fc.SCB": np.ones(4, np.float32)},
        {},
        "tensor 'h.0.fc",
    ),
    "bitsandbytes": ({"h.0.fc.weight.absmax": np.ones(4, np.float32)}, {}, "tensor 'h.0.fc.weight.absmax'"),
    "float8 with scales": (
        {"fc.weight": np.ones((2, 2), all_floats()["float8_e4m3fn"]), "fc.weight_scale_inv": np.ones(1, np.float32)},
        {},
        "tensor 'fc.weight'",
    ),
}


@pytest.mark.parametrize("kind", QUANTISED)
def test_quantised_models_are_refused(kind, base, tmp_path):
    tensors, config, reason = QUANTISED[kind]
    folder = write(tmp_path / "a", {**draw(1), **tensors}, {**CONFIG, **config})
    refused(rf"expert 'a' \(.*\) is quantised according to {reason}.*; .* Dequantise it", base, {"a": folder})
    refused(rf"base \(.*\) is quantised according to {reason}", folder, {"a": base})


@pytest.mark.parametrize("who", ["base", "a"])
def test_a_label_of_quantisation_on_plain_weights_is_noted_and_not_written(who, tmp_path):
    label = {"quantization_config": {"bits": 4}}
    folders = {
        name: write(tmp_path / name, draw(n), {**CONFIG, **(label if name == who else {})})
        for n, name in enumerate(("base", "a"))
    }
    (folders[who] / "hf_quant_config.json").write_text("{}")
    models, *measured = measures(SUM, folders["base"], {"a": folders["a"]})
    note = next(note for note in models.notes if "not quantised" in note)
    assert "`quantization_config` of its config.json and hf_quant_config.json" in note
    merge_measured(models, *measured, tmp_path / "out")
    assert "quantization_config" not in (tmp_path / "out/config.json").read_text()


def test_integers_of_the_base_where_an_expert_has_floats_are_a_mismatch(base, tmp_path):
    folder = write(tmp_path / "codes", {**draw(0), QUERY: np.ones((18, 1), np.uint8)})
    refused(rf"expert 'a': tensor '{QUERY}' has floats, the base's is U8", folder, {"a": base})
    assert QUERY not in unify_layout(folder, {"a": base}, ["q_proj"]).merged


def test_a_gguf_file_is_refused_by_its_name(base, tmp_path):
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf/model-q4.gguf").write_bytes(b"GGUF")
    refused("model-q4.gguf is a GGUF file of llama.cpp", base, {"a": tmp_path / "gguf"})


# ---- configs --------------------------------------------------------------------------------------------------------


HEADS, ROPE = {"num_attention_heads": 8, "head_dim": 4}, {"rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}}
NETWORK = {"num_attention_heads": 4, "head_dim": 8, "rope_theta": 10000.0, "hidden_act": "silu", "rms_norm_eps": 1e-6,
           "partial_rotary_factor": 0.5}  # fmt: skip


@pytest.mark.parametrize("change", [HEADS, {"num_key_value_heads": 1}, {"num_hidden_layers": 3}, {"partial_rotary_factor": 0.25}])
def test_an_expert_whose_config_cuts_the_weights_otherwise_is_refused(change, tmp_path):
    base = write(tmp_path / "base", draw(0), {**CONFIG, **NETWORK, "num_key_value_heads": 4, "num_hidden_layers": 1})
    folder = write(tmp_path / "a", draw(1), {**CONFIG, **NETWORK, "num_key_value_heads": 4, "num_hidden_layers": 1, **change})
    refused(rf"another network than the base .*`{next(iter(change))}` is ", base, {"a": folder})


NUMBERS = {
    "rope_theta": ROPE,
    "hidden_act": {"hidden_act": "gelu"},
    "rms_norm_eps": {"rms_norm_eps": 1e-5},
    "sliding_window": {"sliding_window": 4096},
    "rope_scaling": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "num_experts_per_tok": {"num_experts_per_tok": 4},
    "layer_types": {"layer_types": ["sliding_attention"]},
    "attn_logit_softcapping": {"attn_logit_softcapping": None},
    "query_pre_attn_scalar": {"query_pre_attn_scalar": 128},
    "vision_config.hidden_act": {"vision_config": {"hidden_act": "gelu", "num_heads": 4}},
}
MORE = {"num_experts_per_tok": 2, "layer_types": ["full_attention"], "attn_logit_softcapping": 50.0, "query_pre_attn_scalar": 256}


@pytest.mark.parametrize("key", NUMBERS)
def test_an_expert_whose_config_changes_the_numbers_is_noted(key, tmp_path):
    config = {**CONFIG, **NETWORK, **MORE, "vision_config": {"hidden_act": "quick_gelu", "num_heads": 4}}
    base = write(tmp_path / "base", draw(0), config)
    (note,) = unify_layout(base, {"a": write(tmp_path / "a", draw(1), {**config, **NUMBERS[key]})}).notes
    assert f"`{key}` is " in note and "the base's" in note and note.count("`") == 2


@pytest.mark.parametrize("part", ["", "vision_config."])
def test_what_one_config_leaves_to_be_computed_is_no_difference(part, tmp_path):
    """`head_dim` and `num_key_value_heads` may be null, and one setting has several spellings."""
    old = {"head_dim": None, "num_key_value_heads": None, "rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2}}
    new = {"head_dim": 8, "num_key_value_heads": 4, "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}
    configs = [{**CONFIG, **({part[:-1]: each} if part else each)} for each in (old, new)]
    base, a = (write(tmp_path / str(seed), draw(seed), each) for seed, each in enumerate(configs))
    assert unify_layout(base, {"a": a}).notes == ()


def test_no_experts_and_no_tensors_are_refused(base, tmp_path):
    refused("there are no experts to merge; expected at least one", base, {})
    refused("no tensor is left to merge; correct `exclude`", base, {"a": base}, ["."])
    refused(r"exclude: '\(' is no regular expression", base, {"a": base}, ["("])
    refused(
        "exclude: 'lm_haed' matches none of the 9 tensors of the base .*: model.embed", base, {"a": base}, ["norm", "lm_haed"]
    )
    whole = {name: array.astype(np.int32) for name, array in draw(1).items()}
    refused("9 tensors do not match .* is I32, expected floats", base, {"a": write(tmp_path / "a", whole)})


def test_an_expert_that_equals_the_base_is_named(base, tmp_path):
    wide = {name: array.astype(np.float64) for name, array in draw(0).items()}
    last = {**draw(0), HEAD: draw(0)[HEAD] + np.eye(12, 6, dtype=np.float32)}
    folders = {"a": write(tmp_path / "a", last), "b": write(tmp_path / "b", wide)}
    check_distinct(unify_layout(base, {"a": folders["a"]}))
    for models in (unify_layout(base, folders), unify_layout(base, {"b": write_pickle(tmp_path / "c", draw(0))})):
        with pytest.raises(UserError, match=r"expert 'b' \(.*\) equals the base .* in all 9 merged tensors, .* leave it out"):
            check_distinct(models)
    with pytest.raises(UserError, match="equals the base"):
        check_distinct(unify_layout(base, {"a": folders["a"]}, ["lm_head"]))


# ---- types ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", [("float32", "bfloat16"), ("bfloat16", "float16"), ("float16", "float8_e5m2"),
                                ("float64", "bfloat16"), ("bfloat16", "float64"), ("float8_e4m3fn", "float32")])  # fmt: skip
def test_mixed_types_are_merged_as_numbers(of, tmp_path):
    """The base is stored in one type with every other tensor in the other; the experts the other way round."""
    types = [all_floats()[name] for name in of]

    def model(seed, turn):
        return {n: a.astype(types[(i + turn) % 2]) for i, (n, a) in enumerate(draw(seed).items())}

    base, experts = model(0, 0), {"a": model(1, 1), "b": model(2, 0)}
    folders = {"a": write(tmp_path / "a", experts["a"]), "b": write_pickle(tmp_path / "b", experts["b"])}
    found = merged(tmp_path / "out", SUM, write(tmp_path / "base", base), folders)
    for name, start in base.items():
        wide = start.astype(np.float64)
        exact = wide + sum(0.3 * (each[name].astype(np.float64) - wide) for each in experts.values())
        step = np.spacing(np.abs(exact).astype(start.dtype)).astype(np.float64)
        assert found[name].dtype == start.dtype
        assert (np.abs(found[name].astype(np.float64) - exact) <= step).all(), name
    norms = measure.norms(unify_layout(tmp_path / "base", folders))["tensors"]
    for name, start in base.items():
        exact = [float(((e[name].astype(np.float64) - start.astype(np.float64)) ** 2).sum()) for e in experts.values()]
        assert norms[name]["task_vector"] == pytest.approx(exact, rel=1e-6)


# ---- adapters -------------------------------------------------------------------------------------------------------

Q = QUERY.removesuffix(".weight")
D = DOWN.removesuffix(".weight")


def folded(weight, a, b, scale, dtype=np.float32):
    """W + scale B A, summed over the rank in order in float64, rounded once."""
    update = np.zeros((b.shape[0], a.shape[1]))
    for k in range(len(a)):
        update += b.astype(np.float64)[:, k, None] * a.astype(np.float64)[k]
    update *= scale
    return (update.reshape(weight.shape) + weight.astype(np.float64)).astype(dtype)


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("dtype", all_floats().values(), ids=all_floats())
def test_an_adapter_is_folded_onto_the_base(dtype, pickled, tmp_path):
    start, moves = draw(0, dtype=dtype), {**factors(Q, 6, 6), **factors(D, 6, 10, seed=1, dtype=all_floats()["bfloat16"])}
    models = unify_layout(write(tmp_path / "base", start), {"a": write_adapter(tmp_path / "a", moves, pickled=pickled)})
    assert models.notes == ("expert 'a': its LoRA adapter moves 2 tensors of the base",)
    wide = np.dtype(np.float64) if dtype == np.float64 else np.dtype(np.float32)
    for module in (Q, D):
        name, (a, b) = f"{module}.weight", (moves[f"{module}.lora_{side}.weight"] for side in "AB")
        found = expert(models, "a", name)
        assert found.dtype == wide
        assert found.tobytes() == folded(start[name], a, b, 3 / 2, wide).tobytes()
    assert models.experts["a"].entries[NORM] is models.base.entries[NORM]


def scale_of(tmp_path, base, module, **config):
    """Return the scale that a configuration gives the adapter of a module with factors of ones."""
    shape, name = LLAMA[f"{module}.weight"], f"{module}.weight"
    rank = config.pop("rank", 2)
    ones = {
        f"{module}.lora_A.weight": np.ones((rank, shape[1]), np.float32),
        f"{module}.lora_B.weight": np.ones((shape[0], rank), np.float32),
    }
    models = unify_layout(base, {"a": write_adapter(tmp_path / "a", ones, **config)})
    (scale,) = {round(float(s), 4) for s in ((expert(models, "a", name) - draw(0)[name]) / rank).ravel()}
    return scale


SCALES = {
    "alpha by rank": ({}, 3 / 2),
    "rank-stabilised": ({"use_rslora": True}, 3 / 2**0.5),
    "alpha of a pattern": ({"alpha_pattern": {"q_proj": 5}}, 5 / 2),
    "the first pattern that fits": ({"alpha_pattern": {"up_proj": 7, "layers.0.self_attn.q_proj": 5, "q_proj": 9}}, 5 / 2),
    "a regular expression": ({"alpha_pattern": {r"layers\.\d+\.self_attn\.[qk]_proj": 5}}, 5 / 2),
    "no end of a word": ({"alpha_pattern": {"proj": 5, "self_attn": 5, "layers.1.self_attn.q_proj": 5}}, 3 / 2),
    "rank of a pattern": ({"rank": 4, "rank_pattern": {"q_proj": 4}}, 3 / 4),
    "both patterns": ({"rank": 4, "rank_pattern": {"q_proj": 4}, "alpha_pattern": {Q: 5}, "use_rslora": True}, 5 / 2),
}


@pytest.mark.parametrize("case", SCALES)
def test_the_scale_is_that_of_peft(case, base, tmp_path):
    config, expected = SCALES[case]
    assert scale_of(tmp_path, base, Q, **config) == pytest.approx(expected, abs=1e-4)


def test_weights_stored_in_by_out_are_moved_by_the_transpose(tmp_path):
    """GPT-2: Conv1D, and names without the prefix that the adapter has.

    PEFT writes the `fan_in_fan_out` of the module that it came to last, so that key does not tell how a square one is stored.
    """
    shapes = {"wte.weight": (12, 6), "h.0.attn.c_attn.weight": (6, 18), "h.0.attn.c_proj.weight": (6, 6), "h.0.fc.weight": (6, 4)}
    start = draw(0, shapes)
    moves = {
        **factors("transformer.h.0.attn.c_attn", 18, 6),
        **factors("transformer.h.0.attn.c_proj", 6, 6, seed=1),  # square: its shape does not tell
        **factors("transformer.h.0.fc", 6, 4, seed=2),  # a Linear beside Conv1D
    }
    for kind, fan in itertools.product(("gpt2", "llama"), (True, False)):
        square = np.transpose if kind == "gpt2" else np.asarray
        base = write(tmp_path / f"{kind}-{fan}", start, {"model_type": kind})
        models = unify_layout(base, {"a": write_adapter(tmp_path / f"a-{kind}-{fan}", moves, fan_in_fan_out=fan)})
        assert models.notes[0].endswith("; the prefix 'transformer.' was stripped from 3 names")
        for module, turn in {"attn.c_attn": np.transpose, "attn.c_proj": square, "fc": np.asarray}.items():
            name = f"h.0.{module}.weight"
            a, b = (moves[f"transformer.h.0.{module}.lora_{side}.weight"].astype(np.float64) for side in "AB")
            assert expert(models, "a", name) == pytest.approx(start[name] + 1.5 * turn(b @ a), rel=1e-5)


def test_embeddings_have_factors_of_their_own(base, tmp_path):
    """PEFT: lora_embedding_A (r, words), lora_embedding_B (size, r); the update is (B A) transposed."""
    module = EMBEDDING.removesuffix(".weight")
    moves = draw(1, {f"{module}.lora_embedding_A": (2, 12), f"{module}.lora_embedding_B": (6, 2)})
    a, b = (array.astype(np.float64) for array in moves.values())
    models = unify_layout(base, {"a": write_adapter(tmp_path / "a", moves)})
    assert expert(models, "a", EMBEDDING) == pytest.approx(draw(0)[EMBEDDING] + 1.5 * (b @ a).T, rel=1e-5)
    own = draw(2)[EMBEDDING]  # PEFT saves the embedding beside its factors
    models = unify_layout(base, {"a": write_adapter(tmp_path / "b", {**moves, f"{module}.base_layer.weight": own})})
    assert expert(models, "a", EMBEDDING) == pytest.approx(own + 1.5 * (b @ a).T, rel=1e-5)


def test_convolutions_are_folded_as_matrices(tmp_path):
    start = draw(0, {"conv.weight": (4, 3, 2, 2)})
    moves = draw(1, {"conv.lora_A.weight": (2, 3, 2, 2), "conv.lora_B.weight": (4, 2, 1, 1)})
    models = unify_layout(write(tmp_path / "base", start), {"a": write_adapter(tmp_path / "a", moves)})
    update = np.einsum("or,rijk->oijk", moves["conv.lora_B.weight"][:, :, 0, 0], moves["conv.lora_A.weight"])
    assert expert(models, "a", "conv.weight") == pytest.approx(start["conv.weight"] + 1.5 * update, rel=1e-4, abs=1e-5)


def test_what_was_trained_whole_replaces_and_new_heads_are_left_out(base, tmp_path):
    head = {HEAD: draw(1)[HEAD], NORM: draw(1)[NORM], "score.dense.weight": np.ones((3, 6), np.float32)}
    saved = {"modules_to_save": ["lm_head", "norm", "score"]}
    models = unify_layout(base, {"a": write_adapter(tmp_path / "a", {**factors(Q, 6, 6), **head}, **saved)})
    assert all(expert(models, "a", name).tobytes() == head[name].tobytes() for name in (HEAD, NORM))
    assert models.notes[1] == "expert 'a': left out 1 tensor that the base lacks: score.dense.weight"


def test_an_adapter_with_more_words_is_cut_to_those_of_the_base(tmp_path):
    base = write(tmp_path / "base", without(tied(0), HEAD), TIED)
    more = longer(draw(1), 2, EMBEDDING)[EMBEDDING]
    models = unify_layout(base, {"a": write_adapter(tmp_path / "a", {**factors(Q, 6, 6), EMBEDDING: more, HEAD: more})})
    assert expert(models, "a", EMBEDDING).tobytes() == more[:12].tobytes()
    assert models.notes[-1] == f"expert 'a': dropped 2 rows of '{EMBEDDING}' behind the base's 12"


STRANGE = {
    "a module that is not there": (factors("model.layers.7.q_proj", 6, 6), "'model.layers.7.q_proj' (the base has no such"),
    "another shape": (factors(Q, 6, 5), f"'{Q}' (B A is [6, 5], the tensor F32 [6, 6])"),
    "half a pair": ({f"{Q}.lora_A.weight": np.ones((2, 6), np.float32)}, f"'{Q}' (it has only lora_A)"),
    "another rank": (factors(Q, 6, 6, rank=3), f"'{Q}' (its rank is 3, adapter_config.json has 2)"),
    "ranks that differ": (
        {**factors(Q, 6, 6), f"{Q}.lora_B.weight": np.ones((6, 3), np.float32)},
        f"'{Q}' (lora_A [2, 6] and lora_B [6, 3] cannot be multiplied)",
    ),
    "a magnitude": ({f"{Q}.lora_magnitude_vector": np.ones(6, np.float32)}, f"'{Q}' (it has only lora_magnitude_vector)"),
    "a magnitude of plain LoRA": (
        {**factors(Q, 6, 6), f"{Q}.lora_magnitude_vector": np.ones(6, np.float32)},
        f"'{Q}' (`use_dora` of adapter_config.json is false, its lora_magnitude_vector [6], its outputs 6)",
    ),
    "a bias that is not there": (
        {**factors(Q, 6, 6), f"{Q}.lora_B.bias": np.ones(6, np.float32)},
        f"'{Q}' (it moves a bias that the base lacks or has in another shape)",
    ),
    "rows of no table": (
        {"model.norm.token_adapter.trainable_tokens_delta": np.ones((1, 6), np.float32)},
        "'model.norm' (its [1, 6] rows fit no table of the base)",
    ),
    "a head that nobody saved": ({"score.weight": np.ones((3, 6), np.float32)}, "'score.weight' (the base has no such tensor)"),
}


@pytest.mark.parametrize("case", STRANGE)
def test_every_part_of_an_adapter_finds_its_place_or_is_named(case, base, tmp_path):
    moves, reason = STRANGE[case]
    adapter = write_adapter(tmp_path / "a", {**factors(D, 6, 10), **moves}, base_model_name_or_path="some/model")
    message = refused(
        "1 tensors of the adapter do not match the base .*names some/model as the base: use that", base, {"a": adapter}
    )
    assert reason in message and "merge_and_unload" in message


CONFIGURATIONS = {
    "another kind": ({"peft_type": "IA3"}, "`peft_type` is IA3; expected LORA. Fold it into its base"),
    "KaSA": ({"kasa_config": {"beta": 1}}, "`kasa_config` is set: KaSA has a diagonal"),
    "a changed base": ({"init_lora_weights": "pissa_niter_4"}, "`init_lora_weights` is pissa_niter_4, which changes the base"),
    "no number": ({"lora_alpha": "16"}, "`lora_alpha` is '16'; expected a number above 0"),
    "no rank": ({"r": 0}, "`r` is 0; expected a number above 0"),
    "no number in a pattern": ({"alpha_pattern": {"q": None, "k": "x"}}, "`alpha_pattern: q` is None; expected a number"),
    "no patterns": ({"rank_pattern": [1]}, r"`rank_pattern` is \[1\]; expected a number for each pattern"),
    "no regular expression": ({"alpha_pattern": {"(": 2}}, r"`alpha_pattern`: '\(' is no regular expression"),
    "one in one of PEFT's only": ({"rank_pattern": {")(": 2}}, r"`rank_pattern`: '\)\(' is no regular expression"),
    "one that repeats too often": ({"rank_pattern": {"a{99999999999}": 2}}, "`rank_pattern`: .* is no regular expression"),
    "one of many brackets": ({"rank_pattern": {"(" * 20_000: 2}}, "`rank_pattern`: .* is no regular expression"),
    "an alpha that is none": ({"lora_alpha": float("nan")}, "`lora_alpha` is nan; expected a number above 0"),
    "an alpha without an end": ({"lora_alpha": float("inf")}, "`lora_alpha` is inf; expected a number above 0"),
    "an alpha of many digits": ({"lora_alpha": 10**400}, "`lora_alpha` is 10+; expected a number above 0"),
    "a saved module that is none": ({"modules_to_save": [3]}, r"`modules_to_save` is \[3\]; expected a list of names"),
    "saved modules that are no list": (
        {"modules_to_save": "lm_head"},
        "`modules_to_save` is 'lm_head'; expected a list of names",
    ),
}


SLOW = ["(([a-z0-9_.]+)+)+X", "(a|a|e|.)*(.*)*(.*)*X", "(.*.*.*.*.*.*.*.*)X", r"(\w+\.?)+\d{2}"]


@pytest.mark.parametrize("pattern", SLOW)
@pytest.mark.parametrize("key", ["rank_pattern", "alpha_pattern"])
def test_a_regular_expression_of_an_adapter_takes_no_longer_than_allowed(key, pattern, base, tmp_path, monkeypatch):
    monkeypatch.setattr(patterns, "SECONDS", 1.0)
    long = "model.layers." + "up_proj." * 12
    adapter = write_adapter(tmp_path / "a", factors(f"{long}q_proj", 6, 6), **{key: {pattern: 2}})
    refused(f"adapter_config.json: `{key}`: its regular expressions .* take more than 1 s", base, {"a": adapter})


def test_modules_to_save_are_names_not_regular_expressions(base, tmp_path):
    """As PEFT reads them: a name is found at the end of a module's, and a dot is a dot."""
    moves = {**factors(Q, 6, 6), "xlmxhead.weight": np.ones((3, 6), np.float32)}
    saved = {"modules_to_save": ["(([a-z0-9_.]+)+)+X", "x.*"]}
    refused("'xlmxhead.weight' .the base has no such tensor", base, {"a": write_adapter(tmp_path / "a", moves, **saved)})


def test_dora_without_its_magnitudes_is_named(base, tmp_path):
    adapter = write_adapter(tmp_path / "a", factors(Q, 6, 6), use_dora=True)
    refused("`use_dora` of adapter_config.json is true, its lora_magnitude_vector none, its outputs 6", base, {"a": adapter})


@pytest.mark.parametrize("stated", [[1, 1], [1], [1, 12], [-1, 2], [True, 2], {"lm_head": [1, 2]}, None, "1, 2"])
def test_rows_that_do_not_fit_the_stored_ones_are_named(stated, base, tmp_path):
    rows = {"model.embed_tokens.token_adapter.trainable_tokens_delta": np.ones((2, 6), np.float32)}
    adapter = write_adapter(tmp_path / "a", rows, trainable_token_indices=stated)
    refused(r"adapter_config.json: `trainable_token_indices` is .*; expected 2 different rows from 0 to 11", base, {"a": adapter})


@pytest.mark.parametrize("transposed", [False, True])
def test_norms_of_dora_and_new_rows_are_those_of_any_range(transposed, monkeypatch, tmp_path):
    monkeypatch.setattr(updates, "SUM_TILE", 8)  # smaller than the tensor, so norms are summed in pieces
    module, kind = ("h.0.attn.c_attn", {"model_type": "gpt2"}) if transposed else (D, CONFIG)
    start = draw(0, {f"{module}.weight": (10, 6) if transposed else (6, 10), EMBEDDING: (12, 6)})
    moves = {**factors(module, 6, 10), f"{module}.lora_magnitude_vector": draw(1, {"m": (6,)})["m"]}
    rows = draw(2, {f"{EMBEDDING.removesuffix('.weight')}.token_adapter.trainable_tokens_delta": (2, 6)})
    how = {"use_dora": True, "trainable_token_indices": [11, 3]}
    base = write(tmp_path / "base", start, {**kind, "tie_word_embeddings": False})
    adapter = unify_layout(base, {"a": write_adapter(tmp_path / "a", {**moves, **rows}, **how)}).experts["a"]
    a, b, m = (each.astype(np.float64) for each in moves.values())
    plain = start[f"{module}.weight"].astype(np.float64)
    plain = (plain.T if transposed else plain) + 1.5 * b @ a
    expected = m[:, None] * plain / np.linalg.norm(plain, axis=1, keepdims=True)
    assert values(adapter, f"{module}.weight") == pytest.approx(expected.T if transposed else expected, rel=1e-6)
    table = start[EMBEDDING].copy()
    table[[11, 3]] = next(iter(rows.values()))
    assert values(adapter, EMBEDDING).tobytes() == table.tobytes()


@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_what_is_no_plain_lora_is_refused(case, base, tmp_path):
    config, reason = CONFIGURATIONS[case]
    refused(f"adapter_config.json: {reason}", base, {"a": write_adapter(tmp_path / "a", factors(Q, 6, 6), **config)})


def test_adapters_in_the_wrong_place_are_refused(base, tmp_path):
    adapter = write_adapter(tmp_path / "a", factors(Q, 6, 6))
    refused("is a LoRA adapter; the base must be a whole model", adapter, {"a": base})
    (adapter / "adapter_model.safetensors").unlink()
    refused(r"without weights; expected adapter_model.safetensors or adapter_model.bin", base, {"a": adapter})
    (base / "adapter_config.json").write_text("{}")
    refused(r"holds an adapter \(adapter_config.json\) and a whole model \(model.safetensors\)", base, {"a": base})


def test_threads_change_no_byte_of_views(tmp_path, monkeypatch):
    monkeypatch.setattr("nan_merge.layouts.unify.WORK_UNIT", 16)
    base = write_pickle(tmp_path / "base", draw(0))
    folders = {
        "adapter": write_adapter(tmp_path / "adapter", {**factors(Q, 6, 6), **factors(D, 6, 10)}),
        "longer": write(tmp_path / "longer", longer(draw(1), 3, EMBEDDING, HEAD)),
    }
    recipe = bind(SUM)
    for threads in (1, 3):
        models = unify_layout(base, folders, vocabulary="pad_mean")
        table = recipe.estimate(measure.norms(models, threads=threads))
        merge_measured(models, recipe, table, {}, tmp_path / f"{threads}", threads=threads)
    assert (tmp_path / "1/model.safetensors").read_bytes() == (tmp_path / "3/model.safetensors").read_bytes()
