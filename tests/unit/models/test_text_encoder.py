"""The lean encoder is transformers' BertModel with mean pooling, under the same tensor names."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from nan_merge.core.errors import UserError
from nan_merge.models.classification import build_head, embed
from nan_merge.models.families import text_encoder
from nan_merge.models.heads import Head, predict
from nan_merge.models.registry import family_names, find_family

SIZES = {"vocab_size": 60, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4,
         "intermediate_size": 40, "max_position_embeddings": 16}  # fmt: skip


@pytest.fixture(scope="module")
def reference():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(3)
    config = transformers.BertConfig(**SIZES, initializer_range=0.3, layer_norm_eps=1e-12)
    return transformers.BertModel(config).eval()


@pytest.fixture(scope="module")
def folder(reference, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    reference.save_pretrained(folder)
    return folder


@pytest.fixture
def tokens():
    draw = np.random.default_rng(0)
    rows = draw.integers(1, SIZES["vocab_size"], (7, 12)).astype(np.uint16)
    for i, length in enumerate((9, 2, 5, 1, 7, 3, 9)):
        rows[i, length:] = 0
    return rows


def test_equals_transformers_with_mean_pooling_over_padded_rows(reference, folder, tokens):
    ids = torch.from_numpy(tokens.astype(np.int64))
    mask = (ids != 0).long()
    with torch.no_grad():
        hidden = reference(input_ids=ids, attention_mask=mask).last_hidden_state * mask[..., None]
        expected = torch.nn.functional.normalize(hidden.sum(1) / mask.sum(1, keepdim=True), dim=1)
        found = text_encoder.load(folder)(tokens)
    assert torch.allclose(found, expected, atol=1e-5)
    assert found.std() > 0.01


@pytest.mark.parametrize("change", ["no pooler", "position ids"])
def test_names_follow_the_file_with_or_without_pooler_and_position_ids(folder, tmp_path, change, tokens):
    tensors = load_file(folder / "model.safetensors")
    if change == "no pooler":
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("pooler")}
    else:
        tensors["embeddings.position_ids"] = torch.arange(16)[None]
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    encoder = text_encoder.load(tmp_path)
    assert set(encoder.state_dict()) == set(tensors)
    assert torch.equal(encoder(tokens), text_encoder.load(folder)(tokens))


def test_embeddings_come_back_in_the_order_of_the_inputs(folder, tokens):
    encoder = text_encoder.load(folder)
    batches = text_encoder.batches(tokens, 3)
    assert sorted(np.concatenate(batches)) == list(range(7)) and max(map(len, batches)) == 3
    lengths = (tokens[np.concatenate(batches)] != 0).sum(1)
    assert (np.diff(lengths) >= 0).all()
    found = embed(encoder, tokens, batches)
    assert np.allclose(found, encoder(tokens).detach().numpy(), atol=1e-5)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_a_head_is_centred_before_its_rows_are_made_unit():
    prompts = np.array([[1.0, 1.0], [1.0, 0.0], [1.0, -1.5]], dtype=np.float32)
    head = build_head(prompts)
    assert np.allclose(np.linalg.norm(head, axis=1), 1)
    assert np.allclose(head[:, 0], 0, atol=1e-6)  # what all prompts share is gone
    assert predict(np.array([[5.0, 0.9], [5.0, -0.9]], dtype=np.float32), Head.of_rows(head)).tolist() == [0, 2]


def test_a_checkpoint_that_does_not_fit_is_a_user_error(folder, tmp_path):
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "roberta"}))
    with pytest.raises(UserError, match="model_type is 'roberta'"):
        text_encoder.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 4}))
    with pytest.raises(UserError, match="do not fit the model"):
        text_encoder.load(tmp_path)


def test_prepare_copies_the_checkpoint_and_names_what_is_missing(folder, tmp_path):
    source = tmp_path / "asset"
    source.mkdir()
    for name in ("model.safetensors", "config.json"):
        (source / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        text_encoder.prepare(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (source / "tokenizer.json").write_text("{}")
    text_encoder.prepare(source, tmp_path / "out")
    assert (tmp_path / "out/model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()


def test_an_unknown_family_is_refused_with_the_known_ones():
    assert find_family("text_encoder") is text_encoder and "text_encoder" in family_names()
    with pytest.raises(UserError, match=r"unknown family 'bag_of_words'; known: .*text_encoder"):
        find_family("bag_of_words")
