"""Every family prepares canonical checkpoints of bases and experts, whole or not at all, and makes heads of class names."""

import inspect
import json
import shutil

import numpy as np
import pytest
import tiny
import torch
from models import tensors_of
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch.nn.functional import normalize

from nan_merge.checkpoints.checkpoint import write_checkpoint
from nan_merge.core.errors import UserError
from nan_merge.data.texts import tokenise
from nan_merge.layouts import canonical
from nan_merge.models import classification
from nan_merge.models.families import image_encoder, text_encoder
from nan_merge.models.families.image_encoder import CONFIG as IMAGES
from nan_merge.models.registry import family_names, find_family

WORDS = ["red", "green", "blue", "a", "picture", "of"]
CONFIG = {**tiny.BERT, "hidden_size": 8, "intermediate_size": 12, "max_position_embeddings": 80, "vocab_size": 12}


@pytest.fixture
def bert(tmp_path):
    """A sentence encoder as it was fetched, with a tokenizer."""
    write_checkpoint(tmp_path / "base", tiny.random_bert(CONFIG, 0), CONFIG)
    tokenizer = Tokenizer(WordLevel({"[PAD]": 0, **{word: i for i, word in enumerate(WORDS, 1)}}, unk_token="[PAD]"))
    tokenizer.save(str(tmp_path / "base/tokenizer.json"))
    return tmp_path / "base"


def expert(base, change):
    """Copy a folder, with changed tensors."""
    folder = shutil.copytree(base, base.parent / "expert")
    tensors = tensors_of(base)
    change(tensors)
    shutil.rmtree(folder)
    write_checkpoint(folder, tensors, json.loads((base / "config.json").read_text()), copy_from=base)
    return folder


def step(tensors):
    for name, value in tensors.items():
        tensors[name] = value + np.float32(0.01)


@pytest.mark.parametrize("name", family_names())
def test_a_family_is_complete(name):
    module = find_family(name)
    if hasattr(module, "build"):  # networks that are trained from random weights
        with pytest.raises(UserError, match=rf"family {name} has no `prepare`; .*`network:`"):
            find_family(name, "prepare")
    else:
        assert list(inspect.signature(module.prepare).parameters) == ["source", "output", "base", "max_relative_distance"]
    heads = {"head": ["classes", "templates", "tower"], "extract_head": ["source"]}
    if hasattr(module, "HARNESS"):
        assert not any(hasattr(module, word) for word in (*heads, "batches"))
        for own in heads:
            with pytest.raises(UserError, match=rf"family {name} has no `{own}`; a harness runs its models: name benchmarks"):
                find_family(name, own)
        return
    (own,) = [word for word in heads if hasattr(module, word)]
    assert list(inspect.signature(getattr(module, own)).parameters) == heads[own]
    with pytest.raises(UserError, match=rf"family {name} has no `.*`; .*`(head: expert|text_tower:)`"):
        find_family(name, next(word for word in heads if word != own))
    assert all(callable(getattr(module, word)) for word in ("load", "batches"))


@pytest.mark.parametrize("module", [text_encoder, image_encoder])
def test_a_head_of_sentences_is_what_it_always_was(module, bert):
    classes = ["red", "green", "blue"]
    encoder = text_encoder.load(bert)
    tokens = tokenise([f"a picture of {word}" for word in classes], bert / "tokenizer.json", 64)
    expected = classification.build_head(classification.embed(encoder, tokens, text_encoder.batches(tokens, 64)))
    assert module.head(classes, ["a picture of {}"], bert).tobytes() == expected.tobytes()
    embedded = normalize(encoder(tokens).detach(), dim=1)
    centred = normalize(embedded - embedded.mean(0), dim=1)
    assert torch.allclose(torch.from_numpy(expected), centred, atol=1e-5)
    with pytest.raises(UserError, match=r"`prompt:` has 2 templates; this text tower uses 1"):
        module.head(classes, ["{}", "a {}"], bert)


def test_a_canonical_expert_is_copied_with_its_tokenizer(bert):
    folder = expert(bert, step)
    text_encoder.prepare(folder, bert.parent / "out", bert)
    found, expected = tensors_of(bert.parent / "out"), tensors_of(folder)
    assert list(found) == list(expected) and all(found[name].tobytes() == expected[name].tobytes() for name in found)
    assert sorted(file.name for file in (bert.parent / "out").iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]


def test_a_canonical_image_encoder_is_copied(tmp_path):
    torch.manual_seed(0)
    encoder = image_encoder.Encoder(IMAGES)
    for name in ("base", "expert"):
        write_checkpoint(tmp_path / name, {k: v.contiguous().numpy() for k, v in encoder.state_dict().items()}, IMAGES)
        with torch.no_grad():
            encoder.projection.bias += 0.01
    image_encoder.prepare(tmp_path / "expert", tmp_path / "out", tmp_path / "base")
    assert (tmp_path / "out/model.safetensors").read_bytes() == (tmp_path / "expert/model.safetensors").read_bytes()


def lose(tensors):
    del tensors["embeddings.LayerNorm.bias"]


def shorten(tensors):
    tensors["embeddings.word_embeddings.weight"] = tensors["embeddings.word_embeddings.weight"][:5]


def redraw(tensors):
    tensors.update(tiny.random_bert(CONFIG, 1))


def spoil(tensors):
    step(tensors)
    tensors["embeddings.word_embeddings.weight"][2, :3] = np.nan
    tensors["encoder.layer.1.output.dense.bias"][0] = np.inf


MISTAKES = {
    lose: r"expert: 1 of 37 tensors do not match the base .*base: no 'embeddings.LayerNorm.bias'; expected an expert with",
    shorten: r"1 of 37 tensors do not match the base .*word_embeddings.weight' is \[5, 8\], not \[12, 8\]",
    redraw: r"expert: is no expert of the base .*base: \|tau\| = \d.* is 1\.\d\d of \|W_0\| = \d.*; expected at most 0.5",
    spoil: r"expert: NaN or infinite numbers in .embeddings.+. \(3 of 96\); .encoder.+. \(1 of 8\); expected finite numbers",
}


@pytest.mark.parametrize("change", MISTAKES)
def test_what_is_no_expert_is_refused_and_nothing_is_left(change, bert):
    folder = expert(bert, change)
    with pytest.raises(UserError, match=MISTAKES[change]):
        text_encoder.prepare(folder, bert.parent / "out", bert)
    assert sorted(each.name for each in bert.parent.iterdir()) == ["base", "expert"]


def test_the_bound_of_the_distance_is_of_the_whole_model(bert):
    tensors = tensors_of(bert)
    size = np.sqrt(sum(np.square(value, dtype=np.float64).sum() for value in tensors.values()))
    count = sum(value.size for value in tensors.values())

    def move(tensors):
        for name, value in tensors.items():
            tensors[name] = value + np.float32(0.3 * size / np.sqrt(count))

    folder = expert(bert, move)
    for bound in (0.3001, 0.5):
        text_encoder.prepare(folder, bert.parent / f"out{bound}", bert, max_relative_distance=bound)
    with pytest.raises(UserError, match=r"is 0.30 of \|W_0\|"):
        text_encoder.prepare(folder, bert.parent / "more", bert, max_relative_distance=0.2999)
    assert canonical.MAX_RELATIVE_DISTANCE == 0.5
