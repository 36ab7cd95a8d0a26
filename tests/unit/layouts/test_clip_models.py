"""Both libraries run the same CLIP to the same numbers, and what is no expert of a base is refused before it is merged."""

import json
import shutil
import sys

import ml_dtypes
import numpy as np
import pytest
import tiny_clips
import torch
from layout_models import torch_tensor
from models import ROOT, merged, same_bytes, tensors_of
from safetensors.torch import load_file, save_file
from tiny_clips import (
    CLASSES,
    CONFIG,
    EXPERTS,
    SIDE,
    TEMPLATES,
    WIDTH,
    Array,
    draw,
    moved,
    normalised,
    photographs,
    write_expert,
    write_hub,
)
from torch.nn.functional import normalize

from nan_merge.checkpoints.checkpoint import Checkpoint
from nan_merge.cli import convert
from nan_merge.core.errors import UserError
from nan_merge.core.files import read_json
from nan_merge.layouts import clip_conversion, clip_names
from nan_merge.layouts.clip_folders import LEFTOVERS
from nan_merge.models import zero_shot
from nan_merge.models.families import clip, open_clip
from nan_merge.models.prompts import fill_templates
from nan_merge.models.registry import find_family
from scripts import prepare_checkpoint

SUM = {"coefficients": {"constant": {"value": 0.4}}}


@pytest.fixture
def copied(world, tmp_path):
    """Return a function that copies a folder of the world, to be spoilt."""

    def copy(name):
        return shutil.copytree(world / name, tmp_path / name.replace("/", "_"))

    return copy


def loaded(folder):
    """Return a whole CLIP as each library itself loads it from a folder of the hub."""
    if (folder / "open_clip_config.json").is_file():
        import open_clip as library

        return library.create_model(f"local-dir:{folder}").eval()
    import transformers

    transformers.utils.logging.disable_progress_bar()
    model, found = transformers.CLIPModel.from_pretrained(folder, output_loading_info=True)
    assert not any(found.values()), found
    return model.eval()


@torch.inference_mode()
def logits(model, images, tokens):
    """Return the logits that a library computes itself, exp(logit_scale) included: (images, texts)."""
    if hasattr(model, "encode_image"):
        return model.get_logits(images, tokens)[0].numpy()
    return model(pixel_values=images, input_ids=tokens).logits_per_image.numpy()


def prompts():
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()(fill_templates(CLASSES, TEMPLATES))


# ---- two libraries, one model ---------------------------------------------------------------------------------------


def test_a_converted_model_gives_the_same_logits_in_both_directions(world, tmp_path):
    images, tokens = normalised(photographs(8)), prompts()
    clip_conversion.to_open_clip(world / "hf/base", tmp_path / "back")
    found = {name: logits(loaded(world / name), images, tokens) for name in ("hub/base", "hf/base")}
    found["back"] = logits(loaded(tmp_path / "back"), images, tokens)
    greatest = max(np.abs(each - found["hub/base"]).max() for each in found.values())
    print(f"greatest difference of logits up to {np.abs(found['back']).max():.1f}: {greatest:.1e}")
    assert greatest <= 1e-4 < np.ptp(found["back"], axis=0).mean()


def test_a_way_there_and_back_keeps_the_config(world, tmp_path):
    clip_conversion.to_open_clip(world / "hf/base", tmp_path / "back")
    config = read_json(tmp_path / "back/open_clip_config.json")
    assert config["model_cfg"] == {
        **CONFIG, **{half: {**CONFIG[half], "mlp_ratio": 4.0} for half in ("vision_cfg", "text_cfg")}
    }  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_conversion_keeps_the_type_that_is_stored(dtype, tmp_path):
    state = {name: torch_tensor(value.detach().numpy().astype(dtype)) for name, value in draw(1).state_dict().items()}
    write_hub(tmp_path / "a", draw(1), **state)
    tiny_clips.to_transformers(tmp_path / "a", tmp_path / "b")
    clip_conversion.to_open_clip(tmp_path / "b", tmp_path / "c")
    back = load_file(tmp_path / "c/open_clip_model.safetensors")
    assert all(torch.equal(back[name], value) and back[name].dtype == value.dtype for name, value in state.items())


def test_an_expert_keeps_its_own_projection_when_it_is_converted(world, tmp_path):
    images = photographs(6)
    for name in EXPERTS:
        there, here = (family.load(world / which / name) for family, which in ((open_clip, "open_clip"), (clip, "clip")))
        with torch.inference_mode():
            assert torch.allclose(there(images), here(images), atol=1e-6)
        projection = Checkpoint(world / "clip" / name).read("visual_projection.weight")
        assert not np.array_equal(projection, Checkpoint(world / "clip/base").read("visual_projection.weight"))
        assert np.array_equal(projection.T, Checkpoint(world / "open_clip" / name).read("visual.proj"))
    clip_conversion.to_open_clip(world / "clip/one", tmp_path / "back")
    back = Checkpoint(tmp_path / "back")
    assert all(np.array_equal(back.read(name), Checkpoint(world / "open_clip/one").read(name)) for name in back.names)
    with torch.inference_mode():
        assert torch.allclose(open_clip.load(tmp_path / "back")(images), clip.load(world / "clip/one")(images), atol=1e-6)


def test_names_in_parts_are_read_as_the_whole(world):
    entries = Checkpoint(world / "hub/base/open_clip_model.safetensors").entries
    for converted in (clip_names.to_transformers(ROOT, entries), Checkpoint(world / "hf/base").entries):
        for tensor in clip_names.to_open_clip(ROOT, converted).values():
            whole, step = tensor.block(0, tensor.size), max(1, tensor.size // 3 - 5)
            parts = [tensor.block(start, min(start + step, tensor.size)) for start in range(0, tensor.size, step)]
            assert np.array_equal(np.concatenate(parts), whole)


# ---- the encoders ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [clip, open_clip])
def test_an_encoder_is_the_librarys_own_with_canonical_names(family, world):
    kind = family.__name__.rpartition(".")[2]
    images, encoder = photographs(5), family.load(world / kind / "base")
    assert {name for name, _ in encoder.named_parameters()} == set(Checkpoint(world / kind / "base").names)
    library = loaded(world / ("hf/base" if family is clip else "hub/base"))
    with torch.inference_mode():
        if family is clip:
            expected = library.get_image_features(pixel_values=normalised(images)).pooler_output
        else:
            expected = library.encode_image(normalised(images))
        found = encoder(images)
    assert torch.allclose(found, normalize(expected, dim=1), atol=2e-6)
    assert torch.allclose(found, encoder(images), atol=2e-6), "with gradients another way is taken to the same numbers"
    assert found.dtype is torch.float32 and torch.allclose(found.norm(dim=1), torch.ones(5))


def test_pixels_are_normalised_as_torchvision_does_it():
    images = photographs(3)
    assert torch.equal(zero_shot.normalise_pixels(images, SIDE, torch.zeros(1)), normalised(images))
    images.flags.writeable = False
    assert torch.equal(zero_shot.normalise_pixels(images[::2], SIDE, torch.zeros(1)), normalised(images)[::2])
    with pytest.raises(UserError, match=r"images are \[32, 32, 3\], the model expects \[224, 224, 3\]; correct `input: side:`"):
        zero_shot.normalise_pixels(images, 224, torch.zeros(1))


@pytest.mark.parametrize("family", [clip, open_clip])
def test_an_encoder_runs_at_half_precision(family, world):
    encoder, images = family.load(world / family.__name__.rpartition(".")[2] / "base"), photographs(4)
    with torch.inference_mode():
        exact = encoder(images)
        with torch.autocast("cpu", torch.bfloat16):
            found = encoder(images)
    assert found.dtype is torch.float32 and 0 < (found - exact).abs().max() < 0.05


def test_pictures_are_batched_in_order():
    assert clip.batches is open_clip.batches
    assert [part.tolist() for part in clip.batches(np.zeros((5, 1)), 2)] == [[0, 1], [2, 3], [4]]


# ---- the canonical checkpoint -----------------------------------------------------------------------------------------------


def test_a_merged_folder_is_read_by_transformers(world, tmp_path):
    from transformers import CLIPVisionModelWithProjection

    merged(tmp_path / "out", SUM, world / "clip/base", {name: world / "clip" / name for name in EXPERTS})
    model, found = CLIPVisionModelWithProjection.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(found.values()), found
    assert model.config._attn_implementation == "sdpa" and model.config.projection_dim == WIDTH
    images = photographs(3)
    with torch.inference_mode():
        expected = normalize(model.eval()(pixel_values=normalised(images)).image_embeds, dim=1)
        assert torch.allclose(clip.load(tmp_path / "out")(images), expected, atol=2e-6)


def test_merging_in_one_format_is_merging_in_the_other(world, tmp_path):
    for which in ("clip", "open_clip"):
        merged(tmp_path / which, SUM, world / which / "base", {name: world / which / name for name in EXPERTS})
    clip_conversion.to_open_clip(tmp_path / "clip", tmp_path / "turned")
    there, here = tensors_of(tmp_path / "open_clip"), tensors_of(tmp_path / "turned")
    assert {name for name in there if name.startswith("visual.")} == here.keys()
    assert all(np.array_equal(there[name], here[name]) for name in here)


def test_experts_have_the_names_of_the_base_and_its_frozen_rest(world):
    base = Checkpoint(world / "open_clip/base")
    assert {name.partition(".")[0] for name in base.names} == {"visual", *LEFTOVERS}
    for name in EXPERTS:
        expert = Checkpoint(world / "open_clip" / name)
        assert expert.names == base.names
        moving = {each for each in base.names if not np.array_equal(expert.read(each), base.read(each))}
        assert moving == {each for each in base.names if each.startswith("visual.")}
    assert Checkpoint(world / "clip/one").names == Checkpoint(world / "clip/base").names


def test_what_an_expert_lacks_of_the_frozen_rest_is_the_bases(world, copied):
    folder = copied("hub/one")
    state = torch.load(folder / "nonlinear_finetuned.pt")
    torch.save({f"module.{n}": v for n, v in state.items() if n.startswith("visual.")}, folder / "nonlinear_finetuned.pt")
    open_clip.prepare(folder, folder.parent / "out", world / "open_clip/base")
    assert same_bytes(tensors_of(folder.parent / "out"), tensors_of(world / "open_clip/one"))


def without_stem(state):
    return {name.removeprefix("vision_model."): value for name, value in state.items() if name != "visual_projection.weight"}


SPELLINGS = {
    "as on the hub": lambda state: {f"vision_model.{name}": value for name, value in without_stem(state).items()},
    "as of transformers 5.6": without_stem,
    "with positions": lambda s: {**without_stem(s), "embeddings.position_ids": torch.arange(17)[None]},
    "of a classifier": lambda s: {**{f"clip.{n}": v for n, v in s.items()}, "classifier.weight": torch.ones(2, 64)},
}


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_a_vision_model_is_read(spelling, pickled, world, copied):
    folder = copied("clip/one")
    file = folder / "model.safetensors"
    state = SPELLINGS[spelling](load_file(file))
    file.unlink()
    torch.save(state, folder / "pytorch_model.bin") if pickled else save_file(state, file)
    clip.prepare(folder, folder.parent / "out", world / "hf/base")
    found, one, base = (tensors_of(each) for each in (folder.parent / "out", world / "clip/one", world / "clip/base"))
    assert list(found) == list(base)
    for name, value in found.items():
        assert np.array_equal(value, (base if name == clip.PROJECTION else one)[name]), name


def test_a_base_of_an_old_version_is_read(world, copied):
    """It holds the positions of both halves, and is pickled."""
    folder = copied("hf/base")
    state = load_file(folder / "model.safetensors")
    state |= {f"{half}_model.embeddings.position_ids": torch.arange(77)[None] for half in ("vision", "text")}
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    clip.prepare(folder, folder.parent / "out")
    assert same_bytes(tensors_of(folder.parent / "out"), tensors_of(world / "clip/base"))
    assert np.array_equal(clip.head(CLASSES, TEMPLATES, folder), clip.head(CLASSES, TEMPLATES, world / "hf/base"))


# ---- heads ----------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def test_a_head_is_the_mean_over_templates_of_what_the_library_says(world):
    from open_clip import get_tokenizer

    library, tokenizer = loaded(world / "hub/base"), get_tokenizer(f"local-dir:{world / 'hub/base'}")
    rows = []
    for name in CLASSES:
        texts = library.encode_text(tokenizer([template.format(name) for template in TEMPLATES]), normalize=True)
        rows.append(normalize(texts.mean(0), dim=0))
    for module, folder in ((open_clip, "hub/base"), (clip, "hf/base")):
        head = module.head(CLASSES, TEMPLATES, world / folder)
        assert head.dtype == np.float32 and head.shape == (len(CLASSES), WIDTH)
        assert np.abs(head - torch.stack(rows).numpy()).max() < 2e-6


def test_a_long_prompt_is_cut_at_77_tokens(world):
    long, cut = ["word " * 200], ["word " * 75]
    for module, folder in ((open_clip, "hub/base"), (clip, "hf/base")):
        head = module.head(long, ["{}"], world / folder)
        assert np.abs(head - module.head(cut, ["{}"], world / folder)).max() < 1e-6
        assert np.abs(head - module.head(["word " * 74], ["{}"], world / folder)).max() > 1e-6


def test_old_configs_find_the_end_of_a_text_too(world, copied):
    folder = copied("hf/base")
    config = read_json(folder / "config.json")
    config["text_config"] |= {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}  # as OpenAI's on the hub has it
    (folder / "config.json").write_text(json.dumps(config))
    assert np.array_equal(clip.head(CLASSES, TEMPLATES, folder), clip.head(CLASSES, TEMPLATES, world / "hf/base"))


HEADS = {
    "no place for the class": (CLASSES, ["a photo"], "the template 'a photo' has no {} for the class"),
    "no class": ([], TEMPLATES, "0 classes and 3 templates; expected at least one of both"),
    "no template": (CLASSES, [], "5 classes and 0 templates; expected at least one of both"),
}


@pytest.mark.parametrize("mistake", HEADS)
@pytest.mark.parametrize(("module", "folder"), [(clip, "hf/base"), (open_clip, "hub/base")])
def test_prompts_that_make_no_head_are_named(module, folder, mistake, world):
    classes, templates, message = HEADS[mistake]
    with pytest.raises(UserError, match=message):
        module.head(classes, templates, world / folder)


def test_a_tower_without_text_is_named(world, copied):
    with pytest.raises(UserError, match=r"clip/base: no text tower; expected a whole CLIPModel.*`text_tower:`"):
        clip.head(CLASSES, TEMPLATES, world / "clip/base")
    with pytest.raises(UserError, match=r"open_clip/base: no open_clip_config.json, or no text tower.*`text_tower:`"):
        open_clip.head(CLASSES, TEMPLATES, world / "open_clip/base")
    folder = copied("hf/base")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"hf_base: no tokenizer.json, nor vocab.json and merges.txt"):
        clip.head(CLASSES, TEMPLATES, folder)


# ---- what is refused ------------------------------------------------------------------------------------------------


def rewrite(folder, change):
    """Change the tensors of a folder, whatever its format."""
    file = next(each for each in folder.iterdir() if each.suffix in (".safetensors", ".pt"))
    state = load_file(file) if file.suffix == ".safetensors" else torch.load(file)
    change(state)
    save_file(state, file) if file.suffix == ".safetensors" else torch.save(state, file)
    return folder


KINDS = {"clip": (clip, "hf/one", "vision_model.encoder.layers.0.mlp.fc1.weight"),
         "open_clip": (open_clip, "hub/one", "visual.transformer.resblocks.0.mlp.c_fc.weight")}  # fmt: skip


def refused(kind, folder, world, message, **how):
    module = KINDS[kind][0]
    with pytest.raises(UserError, match=message):
        module.prepare(folder, folder.parent / "out", world / kind / "base", **how)
    assert not (folder.parent / "out").exists()


@pytest.mark.parametrize("key", ["num_attention_heads", "patch_size", "image_size"])
def test_another_network_in_the_config_is_named(key, world, copied):
    folder = copied("hf/one")
    config = read_json(folder / "config.json")
    (folder / "config.json").write_text(json.dumps({**config, key: 2 * config[key]}))
    refused(
        "clip", folder, world, rf"hf_one/config.json: {key} is {2 * config[key]}, that of the base .* is {config[key]}; expected"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_an_expert_of_another_base_is_named(kind, world, tmp_path):
    other = moved(draw(7), 7)
    folder = write_expert(tmp_path / "hub", other)
    if kind == "clip":
        folder = tmp_path / "hf"
        clip_conversion.to_transformers(tmp_path / "hub", folder, world / "hub/base")
    message = r"is no expert of the base .*base: \|tau\| = \d+.* is 1\.\d+ of \|W_0\| = \d+.*; expected at most 0.5.*-distance"
    refused(kind, folder, world, message)
    KINDS[kind][0].prepare(folder, tmp_path / "meant", world / kind / "base", max_relative_distance=2.0)
    assert Checkpoint(tmp_path / "meant").names == Checkpoint(world / kind / "base").names


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_or_half_expert_is_named(kind, world, copied, tmp_path):
    refused(kind, tmp_path / "nowhere", world, "nowhere")
    folder = copied(KINDS[kind][1])
    file = next(each for each in folder.iterdir() if each.suffix in (".safetensors", ".pt"))
    with open(file, "r+b") as stream:
        stream.truncate(file.stat().st_size // 2)
    refused(kind, folder, world, f"{file.name}.*(damaged|truncated)")
    file.unlink()
    refused(kind, folder, world, "no checkpoint in this folder|0 weight files")


def test_several_files_are_named(world, copied):
    folder = copied("hub/one")
    shutil.copy(folder / "nonlinear_finetuned.pt", folder / "other.pt")
    refused("open_clip", folder, world, r"2 weight files \(nonlinear_finetuned.pt, other.pt\); expected one")


def test_an_expert_in_a_folder_below_is_found(world, tmp_path):
    write_expert(tmp_path / "asset/single_task/ViT-B-32/CarsVal", moved(draw(0), 0))
    open_clip.prepare(tmp_path / "asset", tmp_path / "out", world / "open_clip/base")
    assert np.array_equal(tensors_of(tmp_path / "out")["visual.proj"], tensors_of(world / "open_clip/one")["visual.proj"])


def test_another_activation_is_refused(world, copied):
    for name, file, keys, module in (
        ("hf/base", "config.json", ("vision_config", "hidden_act"), clip),
        ("hub/base", "open_clip_config.json", ("model_cfg", "quick_gelu"), open_clip),
    ):
        folder = copied(name)
        config = read_json(folder / file)
        config[keys[0]][keys[1]] = "gelu" if module is clip else False
        (folder / file).write_text(json.dumps(config))
        with pytest.raises(UserError, match=rf"{folder.name}.*: {keys[1]} is ('gelu'|False), OpenAI's CLIP was trained with"):
            module.prepare(folder, folder.parent / "out")
    for which, key, value in (("clip", "hidden_act", "gelu"), ("open_clip", "model_cfg", {**CONFIG, "quick_gelu": False})):
        folder = copied(f"{which}/one")
        config = read_json(folder / "config.json")
        (folder / "config.json").write_text(json.dumps({**config, key: value}))
        with pytest.raises(UserError, match=r"OpenAI's CLIP was trained with"):
            find_family(which).load(folder)


@pytest.mark.parametrize(("kind", "library"), [("clip", "transformers.activations.QuickGELUActivation.forward"),
                                               ("open_clip", "open_clip.transformer.QuickGELU.forward")])  # fmt: skip
def test_the_activation_is_tried_when_a_model_is_loaded(kind, library, world, monkeypatch):
    import transformers.activations  # noqa: F401

    monkeypatch.setattr(library, lambda self, x: torch.nn.functional.gelu(x))
    with pytest.raises(UserError, match=r"base: the activation of the library is .*; expected QuickGELU, x sigmoid\(1.702 x\)"):
        find_family(kind).load(world / kind / "base")


def test_a_module_that_was_trained_with_another_activation_is_refused(world, tmp_path):
    expert = moved(draw(0), 0)
    del expert.transformer
    for block in expert.visual.transformer.resblocks:
        block.mlp.gelu = torch.nn.GELU()
    (tmp_path / "a").mkdir()
    torch.save(expert, tmp_path / "a/finetuned.pt")
    refused("open_clip", tmp_path / "a", world, r"'visual.transformer.resblocks.0.mlp.gelu' is GELU; expected QuickGELU")


STRANGE = [
    ("vision_cfg", "timm_model_name", "vit_base"),
    ("text_cfg", "hf_model_name", "bert"),
    ("vision_cfg", "layers", [3, 4, 6, 3]),
    (None, "custom_text", True),
]


@pytest.mark.parametrize(("half", "key", "value"), STRANGE)
def test_what_is_no_plain_vit_is_refused(half, key, value, copied):
    folder = copied("hub/base")
    config = read_json(folder / "open_clip_config.json")
    (config["model_cfg"][half] if half else config["model_cfg"])[key] = value
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"hub_base.*expected one of OpenAI's ViTs"):
        open_clip.prepare(folder, folder.parent / "out")


def test_the_wrong_family_is_named(world):
    with pytest.raises(UserError, match=r"model_type is 'open_clip', family clip expects 'clip_vision_model'"):
        clip.load(world / "open_clip/base")
    with pytest.raises(UserError, match=r"model_type is 'clip_vision_model', family open_clip expects 'open_clip'"):
        open_clip.load(world / "clip/base")
    with pytest.raises(UserError, match=r"nowhere.config.json: there is no such file"):
        clip.prepare(world / "nowhere", world / "out")
    with pytest.raises(UserError, match=r"hf/one: no tensor 'visual_projection.weight'|no open_clip_config.json"):
        open_clip.prepare(world / "hub/one", world / "out")


def test_tensors_that_do_not_fit_their_config_are_named(world, copied):
    for which, name in (("clip", "vision_model.post_layernorm.bias"), ("open_clip", "visual.ln_post.bias")):
        folder = rewrite(copied(f"{which}/one"), lambda state, name=name: state.pop(name))
        with pytest.raises(UserError, match=r"(?s)the tensors do not fit the model that its config describes.*Missing key"):
            find_family(which).load(folder)


# ---- command lines --------------------------------------------------------------------------------------------------


def run(script, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["script", *map(str, words)])
    script.main()


def test_the_command_lines_prepare_and_convert(world, tmp_path, monkeypatch, capsys):
    convert.main([str(world / "hub/base"), "--to", "transformers", "--output", str(tmp_path / "hf")])
    convert.main([str(tmp_path / "hf"), "--to", "open_clip", "--output", str(tmp_path / "back")])
    assert capsys.readouterr() == (f"{tmp_path / 'hf'}: written\n{tmp_path / 'back'}: written\n", "")
    found, expected = (load_file(each / "open_clip_model.safetensors") for each in (tmp_path / "back", world / "hub/base"))
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    words = ["--to", "transformers", "--base", str(world / "hub/base"), "--output", str(tmp_path / "one")]
    convert.main([str(world / "hub/one"), *words])
    assert "left out, since no image needs it: positional_embedding, text_projection" in capsys.readouterr().err
    words = ["--family", "clip", "--source", tmp_path / "one", "--base", tmp_path / "hf", "--output", tmp_path / "expert"]
    run(prepare_checkpoint, monkeypatch, *words)
    assert same_bytes(tensors_of(tmp_path / "expert"), tensors_of(world / "clip/one"))
    with pytest.raises(UserError, match="expected at most 1e-05"):
        run(prepare_checkpoint, monkeypatch, *words[:-1], tmp_path / "far", "--max-relative-distance", "1e-5")
    before = tensors_of(tmp_path / "hf")
    with pytest.raises(UserError, match="hf: is a folder that holds files, which are not replaced"):
        run(prepare_checkpoint, monkeypatch, *words[:-1], tmp_path / "hf")
    assert same_bytes(tensors_of(tmp_path / "hf"), before), "a script called by hand replaces nothing either"


@pytest.mark.parametrize(
    ("model", "library"),
    [
        ("hub/base", "open_clip"),
        ("open_clip/base", "open_clip"),
        ("hub/base/open_clip_model.safetensors", "open_clip"),
        ("hf/base", "transformers"),
        ("clip/one", "transformers"),
    ],
)
def test_a_model_that_is_as_wanted_is_not_converted(model, library, world, tmp_path):
    words = [str(world / model), "--to", library, "--output", str(tmp_path / "out")]
    with pytest.raises(UserError, match=f"{model}: is a model of {library} already; there is nothing to convert"):
        convert.main(words)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_both_is_converted_either_way(world, copied, tmp_path):
    folder = copied("hf/base")
    for name in ("open_clip_config.json", "open_clip_model.safetensors"):
        (folder / name).write_bytes((world / "hub/base" / name).read_bytes())
    for library in ("open_clip", "transformers"):
        convert.main([str(folder), "--to", library, "--output", str(tmp_path / library)])


def test_what_cannot_be_converted_is_named(world, copied, tmp_path):
    with pytest.raises(
        UserError, match=r"hub/one: no open_clip_config.json; give the model that it was fine-tuned from with --base"
    ):
        clip_conversion.to_transformers(world / "hub/one", tmp_path / "out")
    folder = rewrite(copied("hf/one"), lambda state: state.pop("visual_projection.weight"))
    with pytest.raises(UserError, match=r"no tensor 'visual_projection.weight'; give the CLIPModel that it was fine-tuned from"):
        clip_conversion.to_open_clip(folder, tmp_path / "out")
    clip_conversion.to_open_clip(folder, tmp_path / "whole", world / "hf/base")
    assert np.array_equal(tensors_of(tmp_path / "whole")["visual.proj"], tensors_of(world / "open_clip/base")["visual.proj"])
    folder = rewrite(folder, lambda state: state.pop("vision_model.encoder.layers.0.self_attn.k_proj.bias"))
    with pytest.raises(UserError, match=r"layers.0.self_attn.[qv]_proj.bias' lacks query, key or value tensors"):
        clip_conversion.to_open_clip(folder, tmp_path / "lost", world / "hf/base")
    with pytest.raises(UserError, match=r"the tensor 'visual.attn_pool.query' has no counterpart"):
        clip_names.to_transformers(ROOT, {"visual.attn_pool.query": Array(np.ones(3, np.float32))})
