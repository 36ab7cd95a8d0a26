"""Vision-language models of every layout are merged and converted to what transformers loads, and what is lacking is told."""

import json
import re

import numpy as np
import pytest
from layout_models import (
    LLAVA_NAMES,
    PICTURE,
    VISION_LANGUAGE,
    VIT,
    vision_language,
    write,
    write_llava,
)
from models import merged, same_bytes, tensors_of

from nan_merge.core.errors import UserError
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
        UserError, match=r"has nothing of the base's .*(vision_tower|visual) \(\d+ tensors\).*use `--missing base`$"
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
    patterns = re.findall(r"--exclude '(\^[^']+)'", str(error.value))
    assert len(patterns) == 1, error.value
    if "hidden_size" in change:  # which the projector reads
        patterns.append("multi_modal_projector")
    merge(**how, output=tmp_path / "out", exclude=patterns)
    found = loaded(tmp_path / "out").state_dict()
    assert all(torch.equal(found[name], value) for name, value in base.state_dict().items() if "vision_tower" in name)
    assert not torch.equal(found["lm_head.weight"], base.state_dict()["lm_head.weight"])


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
