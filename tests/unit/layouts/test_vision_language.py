"""Vision-language models of every layout are merged and converted to what transformers loads, and what is lacking is told."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from layout_models import (
    CLIP_VIT,
    LLAVA_NAMES,
    PICTURE,
    VISION_LANGUAGE,
    VIT,
    vision_language,
    write,
    write_clip,
    write_llava,
)
from models import merged, same_bytes, tensors_of
from safetensors.numpy import load_file, save_file

from nan_merge.checkpoints.checkpoint import Checkpoint
from nan_merge.cli import convert
from nan_merge.core.errors import UserError
from nan_merge.layouts import llava_configs
from nan_merge.layouts.clip_configs import VISION
from nan_merge.layouts.unify import unify_layout
from nan_merge.standalone.merge_models import merge

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SUM = {"coefficients": {"constant": {"value": 0.3}}}
ROWS = 64  # of the tables of a LLaVA of transformers with 20 tokens
BOTH = ["llava", "llava_next"]


def loaded(folder, kind=None):
    """Load a folder with the library, and check that it finds every weight and no other."""
    kind = getattr(transformers, kind or json.loads((folder / "config.json").read_text())["architectures"][0])
    model, report = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    return model.eval()


def turned(*words):
    """Run `nan-merge convert` with its arguments and return the folder of its output."""
    words = [str(word) for word in words]
    convert.main(words)
    return Checkpoint(words[words.index("--output") + 1]).folder


def llavas(kind="llava", moved=True):
    """Return a base and two experts, whose frozen towers are that of the base unless it is `moved`."""
    models = {who: vision_language(kind, seed, vocab_size=ROWS) for seed, who in enumerate(("base", "a", "b"))}
    state = models["base"].state_dict()
    for who in "ab":
        steps = {name: 0 if "vision_tower" in name and not moved else 0.05 for name in state}
        models[who].load_state_dict({name: state[name] + steps[name] * v for name, v in models[who].state_dict().items()})
    return models


def sums(models, rows=ROWS):
    """Return base + 0.3 sum of differences by name in memory; `rows` are those that every expert moves."""
    base, *experts = ({n: v.double() for n, v in model.state_dict().items()} for model in models.values())
    result = {name: value + 0.3 * sum(each[name] - value for each in experts) for name, value in base.items()}
    return {name: torch.cat([v[:rows], base[name][rows:]]) if len(v) == ROWS else v for name, v in result.items()}


def renamed(names, layout):
    for pattern, new in LLAVA_NAMES[layout]:
        names = [re.sub(pattern, new, name) for name in names]
    return names


# ---- merges -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("expert", LLAVA_NAMES)
@pytest.mark.parametrize("base", LLAVA_NAMES)
@pytest.mark.parametrize("kind", BOTH)
def test_a_llava_of_every_layout_is_merged_into_one_of_every_layout(kind, base, expert, tmp_path):
    models = llavas(kind)
    for who, layout in {"base": base, "a": expert, "b": expert}.items():
        write_llava(tmp_path / who, models[who], layout)
    found = merged(tmp_path / "out", SUM, tmp_path / "base", {who: tmp_path / who for who in "ab"})
    expected = sums(models, PICTURE if "original" in (base, expert) else ROWS)
    assert {*found} == {*renamed(expected, base)}
    for name, value in zip(renamed(expected, base), expected.values(), strict=True):
        assert np.allclose(found[name], value[: len(found[name])] if value.ndim else value, atol=1e-6), name


TEXT = {  # a model for pictures -> its language model alone
    "llava": "LlamaForCausalLM", "llava_next": "LlamaForCausalLM", "gemma3": "Gemma3ForCausalLM",
    "qwen2_vl": "Qwen2ForCausalLM", "qwen2_5_vl": "Qwen2ForCausalLM", "internvl": "Qwen2ForCausalLM",
}  # fmt: skip


def write_text(folder, kind, model, vocab_size=20):
    """Write the language model of a model for pictures as a model of its own, all weights moved by 0.01."""
    _, record = VISION_LANGUAGE[kind]
    text = getattr(transformers, TEXT[kind])
    text = text(text.config_class(**{key: value for key, value in record["text_config"].items() if key != "rope_scaling"}))
    state = {name.replace("model.language_model.", "model."): value + 0.01 for name, value in model.state_dict().items()}
    report = text.load_state_dict(state, strict=False)
    assert not report.missing_keys
    text.resize_token_embeddings(vocab_size, mean_resizing=False)
    text.save_pretrained(folder)


@pytest.mark.parametrize("kind", TEXT)
def test_a_language_model_alone_is_merged_and_what_stays_at_the_base_is_told(kind, tmp_path):
    base = vision_language(kind)
    base.save_pretrained(tmp_path / "base")
    write_text(tmp_path / "maths", kind, base)
    how = {"base": tmp_path / "base", "experts": [tmp_path / "maths"], "output": tmp_path / "out", "quiet": True,
           "method": "task_arithmetic", "set": {"coefficients.constant.value": 0.5}}  # fmt: skip
    with pytest.raises(
        UserError, match=r"has nothing of the base's .*(vision_tower|visual) \(\d+ tensors\).*use `missing=\"base\"`$"
    ):
        merge(**how)
    notes = merge(**how, missing="base").notes
    (note,) = [note for note in notes if "has nothing of the base's" in note]
    assert re.search(r"expert 'maths': .*(vision_tower|visual) \(\d+ tensors\).*, which it leaves at the base", note)
    found = loaded(tmp_path / "out").state_dict()
    for name, value in base.state_dict().items():
        step = 0.005 if "language_model" in name or name == "lm_head.weight" else 0
        assert torch.allclose(found[name], value + step, atol=1e-6), name


def test_a_language_model_is_merged_into_a_llava_with_original_names(tmp_path):
    base = vision_language("llava", vocab_size=ROWS)
    write_llava(tmp_path / "base", base, "original")
    write_text(tmp_path / "maths", "llava", vision_language("llava"))
    models = unify_layout(tmp_path / "base", {"maths": tmp_path / "maths"}, missing="base")
    (note,) = models.notes
    assert "nothing of the base's vision_tower (23 tensors), multi_modal_projector (4 tensors), which it leaves" in note


def test_a_language_model_is_merged_into_an_internvl_with_original_names(tmp_path):
    base = vision_language("internvl")
    names = [(r"^model\.language_model\.", "language_model.model."), (r"^lm_head", "language_model.lm_head"),
             (r"^model\.vision_tower\.", "vision_model."), (r"^model\.multi_modal_projector\.\D*_?", "mlp1.")]  # fmt: skip
    tensors = {}
    for name, value in base.state_dict().items():
        for pattern, new in names:
            name = re.sub(pattern, new, name)
        tensors[name] = value.numpy()
    words = {"model_type": "qwen2", "vocab_size": 20, "tie_word_embeddings": False}
    write(tmp_path / "base", tensors, {"model_type": "internvl_chat", "llm_config": words, "vision_config": VIT})
    write_text(tmp_path / "maths", "internvl", base, vocab_size=23)
    models = unify_layout(tmp_path / "base", {"maths": tmp_path / "maths"}, missing="base", vocabulary="pad_mean")
    assert models.config == {"llm_config": {**words, "vocab_size": 23}}
    assert any(re.search(r"nothing of the base's .*mlp1 \(\d tensors\)", note) for note in models.notes)
    name = "language_model.model.layers.0.mlp.up_proj.weight"
    assert np.allclose(models.experts["maths"].read(name), models.base.read(name) + 0.01, atol=1e-6)


def test_another_language_model_is_refused(tmp_path):
    vision_language("qwen2_vl").save_pretrained(tmp_path / "base")
    for kind in ("gemma3", "qwen2_5_vl"):
        vision_language(kind).save_pretrained(tmp_path / kind)
        with pytest.raises(UserError, match=r"is a model of type .* the base .* of type qwen2_vl"):
            unify_layout(tmp_path / "base", {"a": tmp_path / kind}, missing="base")


def test_a_part_under_other_names_is_no_absent_part(tmp_path):
    """A tower whose names do not match is not taken for a language model without one."""
    base = vision_language("llava")
    base.save_pretrained(tmp_path / "base")
    tensors = {
        name.replace("vision_tower.", "vision_tower.trunk."): value for name, value in tensors_of(tmp_path / "base").items()
    }
    write(tmp_path / "a", tensors, json.loads((tmp_path / "base/config.json").read_text()))
    with pytest.raises(UserError, match="at most 5% may stay at the base"):
        unify_layout(tmp_path / "base", {"a": tmp_path / "a"}, missing="base")


# ---- towers of two sizes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"num_hidden_layers": 2}, {"patch_size": 2}, {"hidden_size": 16, "num_attention_heads": 4}])
def test_towers_of_two_sizes_are_refused_and_merged_around_with_the_option_of_the_message(change, tmp_path):
    _, record = VISION_LANGUAGE["llava"]
    config = transformers.LlavaConfig(**{**record, "vision_config": {**record["vision_config"], **change}})
    base = vision_language("llava")
    base.save_pretrained(tmp_path / "base")
    transformers.LlavaForConditionalGeneration(config).save_pretrained(tmp_path / "a")
    how = {"base": tmp_path / "base", "experts": [tmp_path / "a"], "method": "weight_averaging", "quiet": True}
    with pytest.raises(UserError, match=r"vision_(tower|config)") as error:
        merge(**how, output=tmp_path / "out")
    patterns = re.findall(r"`exclude=\['(\^[^']+)'\]`", str(error.value))
    assert len(patterns) == 1, error.value
    if "hidden_size" in change:  # which the projector reads
        patterns.append("multi_modal_projector")
    merge(**how, output=tmp_path / "out", exclude=patterns)
    found = loaded(tmp_path / "out").state_dict()
    assert all(torch.equal(found[name], value) for name, value in base.state_dict().items() if "vision_tower" in name)
    assert not torch.equal(found["lm_head.weight"], base.state_dict()["lm_head.weight"])


# ---- conversion -------------------------------------------------------------------------------------------------------------


def pictures(model, count=2):
    """Return a prompt with pictures: tokens with the places of image features, and pixels."""
    rng = np.random.default_rng(0)
    tokens = torch.tensor([[1, *[PICTURE] * 4, 5, 7, 9 + i] for i in range(count)])
    return {"input_ids": tokens, "pixel_values": torch.tensor(rng.standard_normal((count, 3, 8, 8)), dtype=torch.float32)}


def test_a_merge_in_original_names_is_converted_to_the_merge_of_the_library(tmp_path, capsys):
    models = llavas(moved=False)
    clip = write_clip(tmp_path / "clip", models["base"])
    for who, tower in (("base", False), ("a", True), ("b", False)):  # as LLaVA-1.5, Math-LLaVA
        write_llava(tmp_path / who, models[who], "original", tower)
    merged(tmp_path / "merged", SUM, tmp_path / "base", {who: tmp_path / who for who in "ab"})
    out = turned(tmp_path / "merged", "--to", "llava-hf", "--tower", clip, "--output", tmp_path / "hf")
    model, state = loaded(out), sums(models)
    for name, value in model.state_dict().items():
        if len(value) == ROWS:
            state[name][PICTURE:] = state[name][:PICTURE].mean(0)
    expected = vision_language("llava", 5, vocab_size=ROWS)
    expected.load_state_dict({name: value.float() for name, value in state.items()})
    inputs = pictures(model)
    with torch.inference_mode():
        assert torch.allclose(model(**inputs).logits, expected(**inputs).logits, atol=1e-5)
        assert torch.equal(*(each.generate(**inputs, max_new_tokens=4, do_sample=False) for each in (model, expected)))
    assert np.ptp(model(**inputs).logits.detach().numpy()) > 0.1


@pytest.mark.parametrize("kind", BOTH)
def test_a_way_there_and_back_keeps_every_byte(kind, tmp_path):
    write_llava(tmp_path / "a", vision_language(kind, vocab_size=ROWS), "original")
    clip = write_clip(tmp_path / "clip", vision_language(kind, vocab_size=ROWS))
    layout = {"llava": "llava-hf", "llava_next": "llava-next-hf"}[kind]
    there = turned(tmp_path / "a", "--to", layout, "--tower", clip, "--output", tmp_path / "hf")
    loaded(there, VISION_LANGUAGE[kind][0]).save_pretrained(tmp_path / "saved")  # as the library writes what it has loaded
    loaded(there).save_pretrained(tmp_path / "memory", save_original_format=False)
    for source in (there, tmp_path / "saved", tmp_path / "memory"):
        back = turned(source, "--to", "llava", "--output", tmp_path / f"back_{source.name}")
        assert same_bytes(tensors_of(back), tensors_of(tmp_path / "a"))
        again = turned(back, "--to", layout, "--tower", clip, "--output", tmp_path / f"again_{source.name}")
        assert same_bytes(tensors_of(again), tensors_of(there))
        old, new = (json.loads((each / "config.json").read_text()) for each in (tmp_path / "a", back))
        assert {key: old[key] for key in ("vocab_size", "hidden_size", "num_attention_heads", "rms_norm_eps")} == {
            key: new[key] for key in ("vocab_size", "hidden_size", "num_attention_heads", "rms_norm_eps")
        }


PUBLISHED = {  # in the form of config.json of liuhaotian/llava-v1.6-vicuna-13b
    "architectures": ["LlavaLlamaForCausalLM"], "attention_bias": False, "bos_token_id": 1, "eos_token_id": 2,
    "freeze_mm_mlp_adapter": False, "freeze_mm_vision_resampler": False, "hidden_act": "silu", "hidden_size": 5120,
    "image_aspect_ratio": "anyres", "image_crop_resolution": 224, "image_grid_pinpoints": [[336, 672], [672, 336]],
    "image_split_resolution": 224, "initializer_range": 0.02, "intermediate_size": 13824, "max_length": 4096,
    "max_position_embeddings": 4096, "mm_hidden_size": 1024, "mm_patch_merge_type": "spatial_unpad",
    "mm_projector_lr": 2e-05, "mm_projector_type": "mlp2x_gelu", "mm_resampler_type": None, "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False, "mm_vision_select_feature": "patch", "mm_vision_select_layer": -2,
    "mm_vision_tower": "openai/clip-vit-large-patch14-336", "mm_vision_tower_lr": 2e-06, "model_type": "llava",
    "num_attention_heads": 40, "num_hidden_layers": 40, "num_key_value_heads": 40, "pad_token_id": 0, "pretraining_tp": 1,
    "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 10000.0, "tie_word_embeddings": False,
    "tokenizer_model_max_length": 4096, "tokenizer_padding_side": "right", "torch_dtype": "bfloat16",
    "transformers_version": "4.36.2", "tune_mm_mlp_adapter": False, "tune_mm_vision_resampler": False,
    "unfreeze_mm_vision_tower": True, "use_cache": True, "use_mm_proj": True, "vocab_size": 32000,
}  # fmt: skip
TOWER = {**VISION, "hidden_size": 1024, "patch_size": 14, "image_size": 336, "num_hidden_layers": 24, "num_attention_heads": 16}


@pytest.mark.parametrize("layout", ["llava-hf", "llava-next-hf"])
def test_the_config_of_a_published_llava_is_that_of_its_published_conversion(layout):
    record = llava_configs.to_transformers(PUBLISHED, TOWER, layout, 32000)
    kind = transformers.LlavaConfig if layout == "llava-hf" else transformers.LlavaNextConfig
    config = kind(**record)
    assert (config.image_token_index, config.text_config.vocab_size, config.image_seq_length) == (32000, 32064, 576)
    assert (config.vision_feature_layer, config.vision_feature_select_strategy) == (-2, "default")
    assert config.text_config.num_attention_heads == 40 and config.text_config.intermediate_size == 13824
    assert record["text_config"].keys() - {"pretraining_tp", "rope_theta", "rope_scaling"} <= config.text_config.to_dict().keys()
    back = llava_configs.to_original(Path("config.json"), record, TOWER, 32000)
    changed = {key for key in back.keys() & PUBLISHED.keys() if back[key] != PUBLISHED[key]}
    assert changed <= {"model_type", "image_aspect_ratio"} and back["architectures"] == PUBLISHED["architectures"]
    assert llava_configs.is_original(back)


def test_a_llava_next_takes_tower_and_newline_from_where_the_options_say(tmp_path, capsys):
    base, donor = vision_language("llava", vocab_size=ROWS), vision_language("llava_next", 3, vocab_size=ROWS)
    write_llava(tmp_path / "merged", base, "original", tower=False)
    write_llava(tmp_path / "donor", donor, "original")
    clip = write_clip(tmp_path / "clip", base)
    donor.config.save_pretrained(tmp_path / "published")
    of_donor, of_base = donor.state_dict(), base.state_dict()
    for tower, expected in ((clip, of_base), (tmp_path / "donor", of_donor)):
        words = ["--tower", tower, "--newline", tmp_path / "donor", "--base", tmp_path / "published"]
        words += ["--output", tmp_path / f"of_{tower.name}"]
        found = loaded(turned(tmp_path / "merged", "--to", "llava-next-hf", *words)).state_dict()
        assert torch.equal(found["model.image_newline"], of_donor["model.image_newline"])
        assert all(torch.equal(found[name], expected[name]) for name in found if "vision_tower" in name)
        assert torch.equal(found["lm_head.weight"][:PICTURE], of_base["lm_head.weight"][:PICTURE])
    assert "`image_newline` is that of" in capsys.readouterr().err


def test_sizes_of_pictures_are_those_of_the_model_or_else_of_the_processor_and_a_difference_is_told(tmp_path, capsys):
    donor = vision_language("llava_next", 3, vocab_size=ROWS)
    write_llava(tmp_path / "model", donor, "original")
    record = json.loads((tmp_path / "model/config.json").read_text())
    donor.config.save_pretrained(tmp_path / "published")

    def sizes(name, of_model, of_processor, where="preprocessor_config.json"):
        (tmp_path / "model/config.json").write_text(json.dumps({**record, "image_grid_pinpoints": of_model}))
        for file in (tmp_path / "published").glob("*processor_config.json"):
            file.unlink()
        found = {"image_grid_pinpoints": of_processor}
        (tmp_path / "published" / where).write_text(
            json.dumps({"image_processor": found} if where == "processor_config.json" else found)
        )
        words = ["--base", tmp_path / "published", "--output", tmp_path / name]
        out = turned(tmp_path / "model", "--to", "llava-next-hf", *words)
        return json.loads((out / "config.json").read_text())["image_grid_pinpoints"], capsys.readouterr().err

    one, two = [[8, 16]], [[16, 8]]
    assert sizes("a", one, one)[0] == one and sizes("b", None, two, "processor_config.json")[0] == two
    found, told = sizes("c", one, two)
    assert (
        found == one
        and f"its processor cuts pictures to the sizes {two}, and `image_grid_pinpoints` of config.json is {one}" in told
    )


def test_the_heads_of_a_tower_of_unusual_width_are_those_of_a_published_config(tmp_path):
    model = vision_language("llava", vocab_size=ROWS)
    write_llava(tmp_path / "a", model, "original")
    model.config.save_pretrained(tmp_path / "published")
    words = [tmp_path / "a", "--to", "llava-hf", "--output", tmp_path / "out"]
    with pytest.raises(
        UserError, match=r"a: config\.json does not tell how many attention heads its vision tower of width 8 has"
    ):
        turned(*words)
    found = loaded(turned(*words, "--base", tmp_path / "published"))
    assert found.config.vision_config.num_attention_heads == model.config.vision_config.num_attention_heads == 2
    inputs = pictures(model)
    with torch.inference_mode():
        assert torch.allclose(*(each(**inputs).logits[..., :PICTURE] for each in (found, model)), atol=1e-6)


def test_the_tower_inside_an_expert_is_compared_with_that_of_clip(tmp_path, capsys):
    model = vision_language("llava", vocab_size=ROWS)
    clip = write_clip(tmp_path / "clip", model)

    def told(name):
        turned(tmp_path / name, "--to", "llava-hf", "--tower", clip, "--output", tmp_path / f"{name}_hf")
        return capsys.readouterr().err

    write_llava(tmp_path / "frozen", model, "original")
    assert f"the tower of {tmp_path / 'frozen'} equals that of {clip}" in told("frozen")
    write_llava(tmp_path / "half", model.bfloat16().float(), "original")  # trained in bfloat16, and stored so
    tensors = {name: torch.tensor(value).bfloat16() for name, value in tensors_of(tmp_path / "half").items()}
    from safetensors.torch import save_file

    save_file(tensors, tmp_path / "half/model.safetensors")
    assert f"the tower of {tmp_path / 'half'} equals that of {clip}" in told("half")
    with torch.no_grad():
        model.model.vision_tower.post_layernorm.weight.mul_(1.5)
    write_llava(tmp_path / "tuned", model, "original")
    assert re.search(r"tuned differs from that of \S+clip in \d+ of \d+ tensors, by 0\.\d+ of its norm", told("tuned"))
    found, expected = tensors_of(tmp_path / "tuned_hf"), tensors_of(clip)
    name = "vision_model.post_layernorm.weight"
    assert np.array_equal(found[f"vision_tower.{name}"], expected[name]), "the tower is that of the option"


def test_what_cannot_be_converted_is_named(tmp_path):
    model = vision_language("llava", vocab_size=ROWS)
    clip = write_clip(tmp_path / "clip", model)
    write_llava(tmp_path / "a", model, "original", tower=False)

    def refused(message, *words, name="a"):
        with pytest.raises(UserError, match=message):
            turned(tmp_path / name, *words, "--output", tmp_path / "out")
        assert not (tmp_path / "out").exists()

    to = ("--to", "llava-hf")
    refused(r"a: has no vision tower; give openai/clip, or a LLaVA with a tower, with --tower", *to)
    refused(r"a: has no `image_newline`; give a LLaVA-Next with --newline", "--to", "llava-next-hf", "--tower", clip)
    refused(r"--tower: only for LLaVAs, not for --to open_clip", "--to", "open_clip", "--tower", clip)
    refused(r"nowhere: no such folder or file", *to, "--tower", tmp_path / "nowhere")
    refused(r"clip: has no .model.multi_modal_projector.linear_1.weight., under no name", *to, name="clip")
    vision_language("qwen2_vl").save_pretrained(tmp_path / "qwen")
    refused(r"qwen/config.json: model_type is 'qwen2_vl'; expected a LLaVA", *to, name="qwen")
    wide = {**json.loads((clip / "config.json").read_text()), "vision_config": {**VIT, "hidden_size": 16}}
    write(tmp_path / "wide", {name: np.repeat(value, 2, 0) for name, value in tensors_of(clip).items() if value.ndim}, wide)
    refused(r"wide: its tower gives 16 numbers for a patch, the projector of \S+a takes 8", *to, "--tower", tmp_path / "wide")
    tensors = tensors_of(tmp_path / "a")
    write(tmp_path / "linear", {n.replace("mm_projector.0", "mm_projector"): v for n, v in tensors.items()},
          json.loads((tmp_path / "a/config.json").read_text()))  # fmt: skip
    refused(r"linear: 2 tensors of no LLaVA with a projector of two layers .*mm_projector", *to, "--tower", clip, name="linear")
    write_llava(tmp_path / "early", model, "hub")
    record = json.loads((tmp_path / "early/config.json").read_text())
    (tmp_path / "early/config.json").write_text(json.dumps({**record, "vocab_size": ROWS, "image_token_index": -2}))
    refused(r"`image_token_index` is -2 of 64 tokens; expected it behind the vocabulary", "--to", "llava", name="early")


LOST = {  # a tensor in the model or in the tower that is given
    "model": ["model.layers.1.mlp.up_proj.weight", "model.norm.weight", "lm_head.weight", "model.mm_projector.2.bias"],
    "clip": ["embeddings.position_embedding.weight", "pre_layrnorm.bias", "encoder.layers.0.mlp.fc1.weight"],
    "own": ["embeddings.position_embedding.weight", "encoder.layers.0.mlp.fc1.weight"],
}


def refused_to_convert(folder, message, to="llava-hf", tower="clip"):
    with pytest.raises(UserError, match=message):
        turned(folder / "model", "--to", to, "--tower", folder / tower, "--output", folder / "out")
    assert not (folder / "out").exists()


@pytest.mark.parametrize(("who", "lost"), [(who, lost) for who, names in LOST.items() for lost in names])
def test_a_model_or_tower_with_a_lost_tensor_is_not_converted(who, lost, tmp_path):
    model = vision_language("llava", vocab_size=ROWS, num_hidden_layers=2)
    write_llava(tmp_path / "model", model, "original", tower=False)
    write_llava(tmp_path / "own", model, "original")
    write_clip(tmp_path / "clip", model)
    file = tmp_path / who / "model.safetensors"
    tensors = load_file(file)
    (name,) = [name for name in tensors if name.endswith(lost)]
    del tensors[name]
    save_file(tensors, file)
    message = rf"{who}: has no '.*{lost.rpartition('.')[2]}', under no name of it; expected a whole"
    refused_to_convert(tmp_path, message, tower="own" if who == "own" else "clip")


@pytest.mark.parametrize(("who", "layers"), [("model", 3), ("model", 1), ("clip", 2)])
def test_a_model_or_tower_with_other_layers_than_its_config_is_not_converted(who, layers, tmp_path):
    model = vision_language("llava", vocab_size=ROWS, num_hidden_layers=2)
    write_llava(tmp_path / "model", model, "original", tower=False)
    write_clip(tmp_path / "clip", model)
    file = tmp_path / who / "config.json"
    record = json.loads(file.read_text())
    record.get("vision_config", record)["num_hidden_layers"] = layers
    file.write_text(json.dumps(record))
    refused_to_convert(
        tmp_path, rf"{who}: has \d layers? .*, and `num_hidden_layers` of config.json is {layers}; expected a whole"
    )


ODD = {  # in config.json of a LLaVA of transformers or of the CLIP that gives its tower
    "model": [{"text_config": None}, {"vision_config": 3}, {"image_token_index": None}, {"image_token_index": "<image>"},
              {"vision_feature_select_strategy": ["full"]}],
    "clip": [{"vision_config": None}, {"vision_config": {**CLIP_VIT, "image_size": 64}}],
}  # fmt: skip


@pytest.mark.parametrize(("who", "change"), [(who, change) for who, changes in ODD.items() for change in changes])
def test_an_odd_config_is_told_with_the_key(who, change, tmp_path):
    model = vision_language("llava", vocab_size=ROWS)
    write_llava(tmp_path / "model", model, "hub")
    write_clip(tmp_path / "clip", model)
    file = tmp_path / who / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    (key,) = change
    key = "image_size" if isinstance(change[key], dict) else key
    refused_to_convert(tmp_path, rf"{file}: `?{key}`? is .*; expected", to="llava")


# ---- processors -------------------------------------------------------------------------------------------------------------

TEMPLATE = (
    "{% for m in messages %}{% for p in m.content %}{{ '<image>' if p.type == 'image' else p.text }}{% endfor %}{% endfor %}"
)


def write_processor(folder):
    """Write the processor of a LLaVA as the library does: tokenizer with the token of a picture, pictures, chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {f"w{number}": number for number in range(PICTURE)}
    plain = Tokenizer(models.WordLevel(words, unk_token="w3"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, bos_token="w1", eos_token="w2", unk_token="w3", pad_token="w0",
        extra_special_tokens={"image_token": "<image>"}, model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    pixels = transformers.CLIPImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
    transformers.LlavaProcessor(
        pixels, tokenizer, patch_size=4, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)  # fmt: skip


def test_a_converted_merge_answers_about_a_picture(tmp_path, capsys):
    from PIL import Image

    model = vision_language("llava", vocab_size=ROWS)
    write_llava(tmp_path / "merged", model, "original", tower=False)
    write_processor(tmp_path / "published")
    words = ["--tower", write_clip(tmp_path / "clip", model), "--base", tmp_path / "published"]
    out = turned(tmp_path / "merged", "--to", "llava-hf", *words, "--output", tmp_path / "out")
    assert capsys.readouterr().err == ""
    processor = transformers.AutoProcessor.from_pretrained(out)
    content = [{"type": "image", "image": Image.new("RGB", (12, 9), "red")}, {"type": "text", "text": " w5 w7"}]
    how = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    inputs = processor.apply_chat_template([{"role": "user", "content": content}], **how)
    assert inputs["input_ids"].tolist() == [[PICTURE] * 4 + [5, 7]]
    with torch.inference_mode():
        found, expected = (each(**inputs).logits[..., :PICTURE] for each in (loaded(out), model))
    assert torch.allclose(found, expected, atol=1e-6)


LACKING = {
    "it has no processor": (["preprocessor_config.json", "processor_config.json"], []),
    "it has no chat template": (["chat_template.jinja", "chat_template.json"], []),
    f"its tokenizer has no token {PICTURE}, which stands for a picture by `image_token_index`": ([], ["<image>"]),
}


@pytest.mark.parametrize("lack", LACKING)
def test_what_a_base_lacks_to_be_asked_about_a_picture_is_told_and_it_is_merged(lack, tmp_path):
    models = llavas()
    for who, model in models.items():
        model.save_pretrained(tmp_path / who)
    how = {"base": tmp_path / "base", "experts": {who: tmp_path / who for who in "ab"}, "method": "ties", "quiet": True}
    write_processor(tmp_path / "base")
    assert not [note for note in merge(**how, output=tmp_path / "whole").notes if "cannot be asked about a picture" in note]
    files, tokens = LACKING[lack]
    for name in files:
        (tmp_path / "base" / name).unlink(missing_ok=True)
    for file in tmp_path.glob("base/token*.json"):
        record = json.loads(file.read_text())
        record["added_tokens"] = [each for each in record.get("added_tokens", []) if each["content"] not in tokens]
        file.write_text(json.dumps(record))
    (note,) = [note for note in merge(**how, output=tmp_path / "out").notes if "cannot be asked about a picture" in note]
    assert (
        note.startswith(f"{tmp_path / 'base'} cannot be asked about a picture: {lack}") and "base is merged all the same" in note
    )
    assert same_bytes(tensors_of(tmp_path / "out"), tensors_of(tmp_path / "whole"))
