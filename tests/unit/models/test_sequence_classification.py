"""The body and an expert's head give the logits of transformers' classifiers, bit by bit."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import tiny_classifiers
import torch
from safetensors.torch import load_file, save_file
from tiny_classifiers import KINDS

from nan_merge.calibration.fisher import fisher
from nan_merge.calibration.gram import gram
from nan_merge.checkpoints.checkpoint import Checkpoint, write_tensors
from nan_merge.core.blocks import LAYER_RE
from nan_merge.core.errors import UserError
from nan_merge.data.dataset import PADDING
from nan_merge.models.classification import Forward, embed
from nan_merge.models.families import sequence_classification
from nan_merge.models.heads import Head, predict
from nan_merge.models.training import Task

WORDS = [f"w{i}" for i in range(95)]
LENGTHS = (9, 2, 12, 1, 7, 3, 12)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Return {kind: (classifier of three classes, folder of its base, its own folder)}."""
    root, found = tmp_path_factory.mktemp("classifiers"), {}
    for kind in KINDS:
        base = tiny_classifiers.base(kind, len(WORDS))
        model = tiny_classifiers.classifier(kind, base, 3, seed=1, change=0.02)
        folders = tiny_classifiers.publish(root / kind / "base", kind, base, WORDS), root / kind / "expert"
        found[kind] = (model, folders[0], tiny_classifiers.publish(folders[1], kind, model))
    return found


@pytest.fixture(params=KINDS)
def prepared(request, world, tmp_path):
    """Return a classifier, the canonical folders of its base and itself, and its head."""
    model, base, expert = world[request.param]
    sequence_classification.prepare(base, tmp_path / "pretrained")
    sequence_classification.prepare(expert, tmp_path / "expert", tmp_path / "pretrained")
    write_tensors(tmp_path / "head.safetensors", sequence_classification.extract_head(expert))
    return model, tmp_path / "pretrained", tmp_path / "expert", Head.read(tmp_path / "head.safetensors")


def rows(vocabulary, first=0):
    """Return padded rows of tokens; id 0, a word of GPT-2, is among them. RoBERTa's begin with `<s>`, whose id is 0."""
    draw = np.random.default_rng(0)
    tokens = draw.integers(first, vocabulary - 1, (len(LENGTHS), 16)).astype(np.uint16)
    tokens[:, 0] = 0
    for i, length in enumerate(LENGTHS):
        tokens[i, length:] = PADDING
    return tokens


def logits_of_transformers(model, tokens):
    """Return the logits of the whole classifier, padded to the longest row with its own padding."""
    is_token = torch.from_numpy(tokens != PADDING)[:, : max(LENGTHS)]
    ids = torch.from_numpy(tokens.astype(np.int64))[:, : max(LENGTHS)].masked_fill(~is_token, model.config.pad_token_id)
    with torch.inference_mode():
        return model(input_ids=ids, attention_mask=is_token.long()).logits


def test_logits_are_those_of_transformers_but_for_rounding(prepared):
    """Its matrix products have other shapes, which some processors round otherwise."""
    model, _, expert, head = prepared
    tokens = rows(model.config.vocab_size, 4)
    with torch.inference_mode():
        found = head(sequence_classification.load(expert)(tokens))
    assert torch.allclose(found, logits_of_transformers(model, tokens), rtol=0, atol=1e-5) and found.std() > 0.1
    assert predict(sequence_classification.load(expert)(tokens).detach().numpy(), head).tolist() == found.argmax(1).tolist()


def test_padding_and_order_do_not_change_an_embedding(prepared):
    model, _, expert, _ = prepared
    tokens, encoder = rows(model.config.vocab_size, 4), sequence_classification.load(expert)
    batches = sequence_classification.batches(tokens, 3)
    assert np.concatenate(batches).tolist() == np.argsort(LENGTHS, kind="stable").tolist()
    found = embed(encoder, tokens, batches, Forward())
    alone = np.concatenate([embed(encoder, tokens[i : i + 1], [np.array([0])]) for i in range(len(tokens))])
    assert np.allclose(found, alone, atol=1e-5)
    assert not np.allclose(np.linalg.norm(found, axis=1), 1, atol=0.1)  # states, not unit rows


def test_the_canonical_checkpoint_is_the_body_and_nothing_else(prepared):
    model, base, expert, _ = prepared
    stem = "transformer." if model.config.model_type == "gpt2" else "roberta."
    body = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(stem)}
    assert list(Checkpoint(expert).entries) == list(Checkpoint(base).entries) == list(body)
    for name, tensor in body.items():
        assert np.array_equal(Checkpoint(expert).read(name), tensor.numpy())
    assert json.loads((expert / "config.json").read_text()) == json.loads((base / "config.json").read_text())
    assert list(sequence_classification.load(base).state_dict()) == list(body)


def test_a_head_file_with_other_tensors_is_refused(tmp_path):
    write_tensors(tmp_path / "head.safetensors", {"dense.weight": np.eye(3, dtype=np.float32)})
    with pytest.raises(UserError, match=r"no tensor 'dense\.bias'; expected 'head', or dense\.weight"):
        Head.read(tmp_path / "head.safetensors")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_classifier_is_refused(world, tmp_path, kind):
    _, base, expert = world[kind]
    with pytest.raises(UserError, match=r"no tensor '(score|classifier)\..*`head: expert`"):
        sequence_classification.extract_head(base)
    other = shutil.copytree(base, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    heads = "n_head" if kind == "gpt2" else "num_attention_heads"
    (other / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    with pytest.raises(UserError, match="model_type is 'bert'; family sequence_classification has gpt2, roberta"):
        sequence_classification.prepare(other, tmp_path / "out")
    (other / "config.json").write_text(json.dumps({**config, heads: 2}))
    sequence_classification.prepare(other, tmp_path / "pretrained")
    with pytest.raises(UserError, match=f"another network than the base .*`{heads}` is 4, the base's 2"):
        sequence_classification.prepare(expert, tmp_path / "out", tmp_path / "pretrained")
    tensors = load_file(other / "model.safetensors")
    gone = next(name for name in tensors if name.endswith("c_fc.weight" if kind == "gpt2" else "query.weight"))
    save_file({name: tensor for name, tensor in tensors.items() if name != gone}, other / "model.safetensors")
    with pytest.raises(UserError, match=r"1 of \d+ tensors are missing: "):
        sequence_classification.prepare(other, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_calibration_covers_every_matrix_of_the_blocks_and_no_padding(prepared):
    """Conv1D of GPT-2 has its inputs in the rows of its weight."""
    model, _, expert, head = prepared
    tokens, encoder = rows(model.config.vocab_size, 4), sequence_classification.load(expert)
    task = Task(tokens, np.zeros(len(tokens), np.int64), head, 1.0)
    found = gram(encoder, task, batch_size=len(tokens))
    blocks = {name: tensor for name, tensor in encoder.named_parameters() if tensor.ndim == 2 and LAYER_RE.match(name)}
    inputs = 0 if model.config.model_type == "gpt2" else 1
    assert {name: matrix.shape[0] for name, matrix in found.items()} == {
        name: each.shape[inputs] for name, each in blocks.items()
    }
    alone = gram(encoder, task, batch_size=1)  # without padding
    assert all(np.allclose(found[name], alone[name], atol=1e-4) for name in found)
    assert fisher(encoder, task, examples=4).keys() == dict(encoder.named_parameters()).keys()
