"""The image encoder: batch norm folded away without a trace, names that merge, an alignment that aligns."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from nan_merge.checkpoints.checkpoint import Checkpoint, write_checkpoint
from nan_merge.core.errors import UserError
from nan_merge.data.dataset import Dataset, write_dataset
from nan_merge.models import alignment
from nan_merge.models.families.image_encoder import CONFIG, EPS, Encoder, fold, load, prepare
from scripts import align_checkpoint

TINY = {
    "model_type": CONFIG["model_type"],
    "stem": 4,
    "head": 12,
    "projection": 6,
    "stages": [[1, 3, 1, 1, 4, 4], [2, 5, 2, 2, 4, 6]],
}
SETTINGS = {
    "learning_rate": 3e-3, "steps": 40, "batch_size": 16, "logit_scale": 10.0, "weight_decay": 0.0, "ridge": 0.1,
}  # fmt: skip


def with_batch_norm(config: dict) -> dict[str, torch.Tensor]:
    """Make a checkpoint as the source ships it: convolutions without bias, batch norms with statistics."""
    draw = torch.Generator().manual_seed(1)
    state: dict[str, torch.Tensor] = {}

    def put(convolution: str, norm: str, shape: tuple[int, ...]) -> None:
        state[f"{convolution}.weight"] = torch.randn(shape, generator=draw) / np.prod(shape[1:]) ** 0.5
        for key, low in (("weight", 0.5), ("running_var", 0.1), ("bias", -0.5), ("running_mean", -0.5)):
            state[f"{norm}.{key}"] = low + torch.rand(shape[0], generator=draw)

    put("_conv_stem", "_bn0", (config["stem"], 3, 3, 3))
    i = 0
    for repeats, kernel, _, expansion, inner, outer in config["stages"]:
        for repeat in range(repeats):
            width = (outer if repeat else inner) * expansion
            if expansion > 1:
                put(f"_blocks.{i}._expand_conv", f"_blocks.{i}._bn0", (width, width // expansion, 1, 1))
            put(f"_blocks.{i}._depthwise_conv", f"_blocks.{i}._bn1", (width, 1, kernel, kernel))
            put(f"_blocks.{i}._project_conv", f"_blocks.{i}._bn2", (outer, width, 1, 1))
            i += 1
    put("_conv_head", "_bn1", (config["head"], config["stages"][-1][-1], 1, 1))
    return state


def unfolded(state: dict[str, torch.Tensor], config: dict, images: np.ndarray) -> torch.Tensor:
    """Run convolutions and batch norms one after the other, as the source's network does in evaluation mode."""

    def step(x: torch.Tensor, convolution: str, norm: str, stride: int = 1, groups: int = 1) -> torch.Tensor:
        weight = state[f"{convolution}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=groups)
        names = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{norm}.{name}"] for name in names), training=False, eps=EPS)

    x = (torch.from_numpy(images).permute(0, 3, 1, 2).float() - 127) / 128
    x = F.relu6(step(x, "_conv_stem", "_bn0", stride=2))
    i = 0
    for repeats, _, stride, expansion, _, _ in config["stages"]:
        for repeat in range(repeats):
            name, y = f"_blocks.{i}.", x
            if expansion > 1:
                y = F.relu6(step(y, name + "_expand_conv", name + "_bn0"))
            now = 1 if repeat else stride
            y = F.relu6(step(y, name + "_depthwise_conv", name + "_bn1", now, groups=y.shape[1]))
            y = step(y, name + "_project_conv", name + "_bn2")
            x = x + y if now == 1 and x.shape[1] == y.shape[1] else y
            i += 1
    return F.relu6(step(x, "_conv_head", "_bn1")).mean((2, 3))


def tensors(encoder: Encoder) -> dict[str, np.ndarray]:
    return {name: tensor.contiguous().numpy() for name, tensor in encoder.state_dict().items()}


def some_images(count: int, side: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


@pytest.fixture
def tiny(tmp_path):
    write_checkpoint(tmp_path / "tiny", fold(with_batch_norm(TINY), TINY), TINY)
    return tmp_path / "tiny"


def test_folded_network_equals_convolutions_and_batch_norms(tiny):
    images = some_images(5)
    with torch.no_grad():
        found = load(tiny).features(images)
    torch.testing.assert_close(found, unfolded(with_batch_norm(TINY), TINY, images), rtol=1e-4, atol=1e-5)


def test_full_network_takes_the_shipped_names_and_has_the_published_size(tmp_path):
    torch.save(with_batch_norm(CONFIG), tmp_path / "some.pth")
    prepare(tmp_path, tmp_path / "out")
    shapes = [Checkpoint(tmp_path / "out").shape(name) for name in Checkpoint(tmp_path / "out").names]
    backbone = sum(int(np.prod(shape)) for shape in shapes) - 384 * 1281
    # all of Lite0 less its classifier, less one number a channel: scale and shift become one bias
    assert backbone == 4_652_008 - 1_281_000 - 21_008
    embeddings = load(tmp_path / "out")(some_images(2, 48)).detach()
    assert embeddings.shape == (2, 384)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(2))


def test_state_dict_and_checkpoint_have_the_same_names_and_values(tiny):
    encoder, checkpoint = load(tiny), Checkpoint(tiny)
    assert list(encoder.state_dict()) == checkpoint.names
    assert [name for name, _ in encoder.named_parameters()] == checkpoint.names
    for name, array in tensors(encoder).items():
        np.testing.assert_array_equal(array, checkpoint.read(name))


def test_every_parameter_gets_a_gradient(tiny):
    encoder = load(tiny)
    encoder(some_images(4)).square().cumsum(1).sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_mistakes_are_named(tiny, tmp_path):
    with pytest.raises(UserError, match=r"expected one \*\.pth"):
        prepare(tmp_path / "empty", tmp_path / "out")
    (tmp_path / "raw").mkdir()
    torch.save({"stem.weight": torch.zeros(1)}, tmp_path / "raw" / "other.pth")
    with pytest.raises(UserError, match=r"_conv_stem|_bn0"):
        prepare(tmp_path / "raw", tmp_path / "out")
    write_checkpoint(tmp_path / "bert", tensors(load(tiny)), {**TINY, "model_type": "bert"})
    with pytest.raises(UserError, match="'bert', family image_encoder expects"):
        load(tmp_path / "bert")
    write_checkpoint(tmp_path / "short", tensors(load(tiny)), {**TINY, "projection": 7})
    with pytest.raises(UserError, match="do not fit the model"):
        load(tmp_path / "short")


def pairs(seed: int) -> tuple[list[alignment.Pairs], alignment.Pairs]:
    """Make two tasks and captions: bright and dark images of a hue, a text a hue."""
    draw = np.random.default_rng(seed)
    texts = np.linalg.qr(draw.normal(size=(6, 6)))[0].astype(np.float32)

    def some(kinds: list[int], count: int) -> alignment.Pairs:
        labels = np.repeat(kinds, count)
        images = np.zeros((len(labels), 16, 16, 3), np.uint8)
        for image, kind in zip(images, labels, strict=True):
            image[..., kind % 3] = 120 + 120 * (kind // 3) + draw.integers(0, 15)
        return alignment.Pairs(images, texts[labels])

    return [some([0, 1, 2], 5), some([3, 4], 9)], some([0, 1, 2, 3, 4, 5], 4)


def test_alignment_brings_images_to_their_texts_and_repeats_itself(tiny):
    tasks, captions = pairs(0)
    runs = []
    for _ in range(2):
        encoder = load(tiny)
        losses = alignment.align_text_image(encoder, tasks, captions, SETTINGS, 3)
        runs.append(tensors(encoder))
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert all(runs[0][name].tobytes() == runs[1][name].tobytes() for name in runs[0])
    own = torch.from_numpy(np.unique(tasks[0].texts, axis=0))
    with torch.no_grad():
        hit = (load_state(tiny, runs[0])(tasks[0].images) @ own.T).argmax(1)
    right = (torch.from_numpy(tasks[0].texts) @ own.T).argmax(1)
    assert (hit == right).float().mean() > 0.9


def load_state(folder, state) -> Encoder:
    encoder = load(folder)
    encoder.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    return encoder


def test_contrast_counts_pairs_with_one_text_as_matches():
    texts = torch.eye(3)[[0, 0, 1]]
    scale = 50.0
    assert float(alignment.contrastive_loss(texts, texts, scale)) == pytest.approx(2 / 3 * np.log(2), abs=1e-4)
    apart = torch.eye(3)
    assert float(alignment.contrastive_loss(apart, apart, scale)) == pytest.approx(0, abs=1e-4)


def test_alignment_refuses_unknown_settings(tiny):
    tasks, captions = pairs(0)
    with pytest.raises(UserError, match=r"`alignment:` of the suite: missing \['ridge'\], unknown \['ridgee'\]"):
        settings = {key: value for key, value in SETTINGS.items() if key != "ridge"}
        alignment.align_text_image(load(tiny), tasks, captions, {**settings, "ridgee": 1}, 0)


def test_script_pairs_images_with_the_prompts_of_their_classes(tiny, tmp_path, monkeypatch):
    words = ["red", "green", "blue", "bright"]
    tokenizer = Tokenizer(WordLevel({"[PAD]": 0, **{word: i for i, word in enumerate(words, 1)}}, unk_token="[PAD]"))
    (tmp_path / "tower").mkdir()
    tokenizer.save(str(tmp_path / "tower" / "tokenizer.json"))
    rows = torch.eye(6)

    def tower(tokens: np.ndarray) -> torch.Tensor:
        return rows[tokens[:, 0].astype(int)]

    monkeypatch.setattr(align_checkpoint.text_encoder, "load", lambda folder: tower)
    labels = np.arange(24) % 3
    record = {"classes": words[:3]}
    write_dataset(tmp_path / "task", record, {"alignment": (some_images(24), labels)})
    write_dataset(tmp_path / "captions", {"classes": words}, {"train": (some_images(4), np.arange(4))})

    found = align_checkpoint.pairs(Dataset(tmp_path / "task"), "alignment", rows[1:4].numpy())
    np.testing.assert_array_equal(found.texts, rows[labels + 1].numpy())

    settings = {**SETTINGS, "steps": 2, "batch_size": 6, "captions": "captions"}
    prompts = {"task": {"classes": words[:3], "templates": ["{}"]}, "captions": {"classes": [], "templates": ["{}"]}}
    spec = json.dumps({"settings": settings, "prompts": prompts})
    for name in ("one", "two"):
        places = {"prepared": tiny, "text-tower": tmp_path / "tower", "datasets": tmp_path / "task",
                  "captions": tmp_path / "captions", "output": tmp_path / name}  # fmt: skip
        options = [part for key, place in places.items() for part in (f"--{key}", str(place))]
        arguments = ["align", "--family", "image_encoder", "--spec", spec, *options]
        monkeypatch.setattr("sys.argv", arguments)
        align_checkpoint.main()
    assert Checkpoint(tmp_path / "one").names == Checkpoint(tiny).names
    bytes_of = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert bytes_of[0] == bytes_of[1] != (tiny / "model.safetensors").read_bytes()
    assert load(tmp_path / "one")(some_images(2)).shape == (2, 6)
