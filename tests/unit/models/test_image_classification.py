"""The body and an expert's head give the logits of transformers' image classifiers, also of a merge."""

from __future__ import annotations

import copy
import json
import shutil

import numpy as np
import pytest
import tiny_image_classifiers as tiny
import torch
from safetensors.torch import load_file, save_file
from tiny_image_classifiers import KINDS, SIDE

from nan_merge.calibration.fisher import fisher
from nan_merge.calibration.gram import gram
from nan_merge.checkpoints.checkpoint import Checkpoint, write_tensors
from nan_merge.core.errors import UserError
from nan_merge.models.classification import Forward, embed
from nan_merge.models.families.image_classification import batches, extract_head, load, prepare
from nan_merge.models.heads import Head
from nan_merge.models.training import Task
from nan_merge.standalone.merge_models import merge

IMAGES = np.random.default_rng(0).integers(0, 256, (7, SIDE, SIDE, 3), dtype=np.uint8)
STATISTICS = r"running_(mean|var)$"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Return {kind: (models by name, folders of what is published by name)}."""
    root, found = tmp_path_factory.mktemp("images"), {}
    for kind in KINDS:
        base = tiny.classifier(kind, 5)
        models = {"base": base, **{name: tiny.classifier(kind, 3, seed, base) for seed, name in enumerate("ab", 1)}}
        folders = {name: tiny.publish(root / kind / name, model, name == "base") for name, model in models.items()}
        found[kind] = models, folders
    return found


@pytest.fixture(params=KINDS)
def prepared(request, published, tmp_path):
    """Return the models, their canonical folders, and the folder of heads."""
    models, folders = published[request.param]
    prepare(folders["base"], tmp_path / "base")
    for name in "ab":
        prepare(folders[name], tmp_path / name, tmp_path / "base")
        write_tensors(tmp_path / f"{name}.safetensors", extract_head(folders[name]))
    return models, tmp_path


def scored(folder, head):
    """Return the logits of the images by a checkpoint and a head."""
    found = embed(load(folder), IMAGES, batches(IMAGES, 3), Forward())
    return Head.read(head)(torch.from_numpy(found))


def with_body(model, body):
    """Return a classifier with another body."""
    other = copy.deepcopy(model)
    getattr(other, other.base_model_prefix).load_state_dict(body, strict=False)
    return other


def body_of(model):
    return getattr(model, model.base_model_prefix).state_dict()


def test_logits_are_those_of_transformers(prepared):
    models, root = prepared
    for name, folder in {"a": root / "a", "b": root / "b", "base": root / "base"}.items():
        expert = models["a" if name == "base" else name]
        expected = tiny.logits(with_body(expert, body_of(models[name])), IMAGES)
        found = scored(folder, root / f"{'a' if name == 'base' else name}.safetensors")
        assert torch.allclose(found, expected, atol=1e-4) and expected.std() > 0.01, name


def test_a_merge_is_scored_as_transformers_scores_it(prepared):
    models, root = prepared
    merge(base=root / "base", experts={n: root / n for n in "ab"}, method="weight_averaging", output=root / "out", quiet=True)
    mean = {name: (tensor.double() + body_of(models["b"])[name]).float() / 2 for name, tensor in body_of(models["a"]).items()}
    counters = {name: tensor for name, tensor in body_of(models["a"]).items() if name.endswith("num_batches_tracked")}
    expected = tiny.logits(with_body(models["a"], {**mean, **counters}), IMAGES)
    assert torch.allclose(scored(root / "out", root / "a.safetensors"), expected, atol=1e-4)
    assert json.loads((root / "out/preprocessor_config.json").read_text())["image_mean"] == tiny.MEAN


def test_the_canonical_checkpoint_is_the_body_without_counters(prepared):
    models, root = prepared
    stem = models["a"].base_model_prefix
    wanted = [name for name in models["a"].state_dict() if name.startswith(f"{stem}.") and "num_batches" not in name]
    assert list(Checkpoint(root / "a").entries) == list(Checkpoint(root / "base").entries) == wanted
    names = {name for name, _ in load(root / "a").named_parameters()}
    assert names <= {*wanted} and {*wanted} - names <= {name for name in wanted if "running_" in name}


def test_calibration_covers_every_matrix_and_parameter(prepared):
    models, root = prepared
    encoder = load(root / "a")
    task = Task(IMAGES, np.zeros(len(IMAGES), np.int64), Head.read(root / "a.safetensors"), 1.0)
    parameters = dict(encoder.named_parameters())
    matrices = {name for name, module in encoder.named_modules() if isinstance(module, torch.nn.Linear)}
    assert {name.removesuffix(".weight") for name in gram(encoder, task, batch_size=3)} == matrices
    assert fisher(encoder, task, examples=4).keys() == parameters.keys()
    assert bool(matrices) != (models["a"].config.model_type == "resnet")


def test_statistics_of_batch_norms_are_merged_or_kept_as_the_suite_says(published, tmp_path):
    _, folders = published["resnet"]
    prepare(folders["base"], tmp_path / "base")
    for name in "ab":
        prepare(folders[name], tmp_path / name, tmp_path / "base")
    how = {"base": tmp_path / "base", "experts": {n: tmp_path / n for n in "ab"}, "method": "task_arithmetic", "quiet": True}
    merge(**how, output=tmp_path / "merged")
    merge(**how, output=tmp_path / "kept", exclude=[STATISTICS])
    base, a, b, merged, kept = (Checkpoint(tmp_path / name) for name in ("base", "a", "b", "merged", "kept"))
    statistics = [name for name in base.names if "running_" in name]
    assert len(statistics) > 4
    for name in statistics:
        w0 = base.read(name).astype(np.float64)
        expected = w0 + 0.3 * (a.read(name) - w0 + b.read(name) - w0)
        assert np.allclose(merged.read(name), expected, atol=1e-5) and not np.allclose(merged.read(name), w0, atol=1e-5)
        assert np.array_equal(kept.read(name), base.read(name))


def test_a_merge_with_negative_variances_is_refused_with_the_way_out(published, tmp_path):
    _, folders = published["resnet"]
    prepare(folders["base"], tmp_path / "base")
    tensors = load_file(tmp_path / "base/model.safetensors")
    (name, *_) = (each for each in tensors if each.endswith("running_var"))
    tensors[name][0] = -1.0
    save_file(tensors, tmp_path / "base/model.safetensors")
    with pytest.raises(UserError, match=r"1 variances of batch norms have negative.*exclude: \['running_\(mean\|var\)\$'\]"):
        load(tmp_path / "base")


def test_models_that_do_not_fit_are_refused(published, tmp_path):
    _, folders = published["convnext"]
    other = shutil.copytree(folders["a"], tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    with pytest.raises(UserError, match="model_type is 'bert'; family image_classification has convnext, dinov2, resnet"):
        prepare(other, tmp_path / "out")
    with pytest.raises(UserError, match=r"preprocessor_config\.json: there is no such file; name it in `members:`"):
        prepare(folders["a"], tmp_path / "out")
    bare = shutil.copytree(folders["a"], tmp_path / "bare")
    tensors = load_file(bare / "model.safetensors")
    save_file({name: tensor for name, tensor in tensors.items() if "classifier" not in name}, bare / "model.safetensors")
    with pytest.raises(UserError, match=r"no tensors 'classifier\.weight' and 'classifier\.bias'"):
        extract_head(bare)
    save_file({name: tensor for name, tensor in tensors.items() if "stages.0" not in name}, bare / "model.safetensors")
    with pytest.raises(UserError, match=r"tensors are missing: 'convnext\.encoder\.stages\.0|tensors are missing: convnext"):
        prepare(bare, tmp_path / "out", folders["base"])
    broken = shutil.copytree(folders["base"], tmp_path / "broken")
    (broken / "preprocessor_config.json").write_text('{"size": 32}')
    with pytest.raises(UserError, match="no key 'image_mean'; expected that of an image processor"):
        prepare(broken, tmp_path / "out")


def test_pictures_of_another_size_are_refused(published, tmp_path):
    _, folders = published["dinov2"]
    prepare(folders["base"], tmp_path / "base")
    with pytest.raises(UserError, match=r"the images are \[16, 16, 3\], the model expects \[32, 32, 3\]"):
        load(tmp_path / "base")(IMAGES[:, :16, :16])
