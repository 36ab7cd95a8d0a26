"""Calibration of CLIPs in both libraries: what the fused attention of one says is what the layers of the other say."""

import numpy as np
import pytest
from calibration_suite import clip_models
from tiny_clips import EXPERTS, Array

from nan_merge.calibration.adamerging import DifferentiableMerge, learn
from nan_merge.calibration.fisher import fisher
from nan_merge.calibration.gram import gram
from nan_merge.calibration.gram_plus import gram_plus
from nan_merge.engine.request import Contexts
from nan_merge.layouts import clip_names
from nan_merge.methods.recipe import bind
from nan_merge.models.families import clip, open_clip

KINDS = {"clip": clip, "open_clip": open_clip}
BLOCK = "visual.transformer.resblocks.1."


@pytest.fixture(scope="module")
def experts(world):
    """The first expert, in both libraries."""
    return {kind: module.load(world / kind / "one") for kind, module in KINDS.items()}


def renamed(tensors):
    """Turn arrays under open_clip's names into those of transformers."""
    found = clip_names.to_transformers("", {name: Array(np.ascontiguousarray(value)) for name, value in tensors.items()})
    return {name: tensor.block(0, tensor.size).reshape(tensor.shape) for name, tensor in found.items()}


def close(found, expected, share=1e-4, least=0.0):
    """Compare to a share of the greatest number; what is below `least` is the noise of a zero."""
    assert np.abs(found - expected).max() <= share * max(least, np.abs(expected).max())
    return True


def test_fisher_of_both_libraries_agrees(experts, tasks):
    found = {kind: fisher(encoder, tasks[0], examples=8, batch_size=4) for kind, encoder in experts.items()}
    assert all(np.all(value == 0) for name, value in found["open_clip"].items() if not name.startswith("visual."))
    turned = renamed({name: value for name, value in found["open_clip"].items() if name.startswith("visual.")})
    assert turned.keys() == found["clip"].keys()
    least = 1e-6 * max(value.max() for value in found["clip"].values())
    assert all(close(turned[name], value, 1e-3, least) for name, value in found["clip"].items())
    silent = {name for name, value in found["clip"].items() if value.max() < least}
    assert all(name.endswith("k_proj.bias") for name in silent), "a bias of keys does not act: softmax takes it away"


def test_gram_of_both_libraries_agrees(experts, tasks):
    there, here = (gram(experts[kind], tasks[0], examples=8, batch_size=4) for kind in ("open_clip", "clip"))
    for i in range(2):
        new, old = f"vision_model.encoder.layers.{i}.", f"visual.transformer.resblocks.{i}."
        for which in "qkv":
            assert close(there[f"{old}attn.in_proj_weight"], here[f"{new}self_attn.{which}_proj.weight"])
        for old_part, new_part in (("attn.out_proj", "self_attn.out_proj"), ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2")):
            assert close(there[f"{old}{old_part}.weight"], here[f"{new}{new_part}.weight"])
    assert len(there) == 2 * 4 and len(here) == 2 * 6 + 1


def test_gram_plus_of_both_libraries_agrees(world, tasks):
    found = {}
    for kind, module in KINDS.items():
        inputs = {name: task.inputs for name, task in zip(EXPERTS, tasks, strict=True)}
        found[kind] = gram_plus(module.load(world / kind / "base"), clip_models(world, kind), inputs, examples=8, batch_size=4)
    for name in EXPERTS:
        there, here = found["open_clip"][name], found["clip"][name]
        assert close(there[f"{BLOCK}mlp.c_proj.weight"], here["vision_model.encoder.layers.1.mlp.fc2.weight"], 1e-3)
        assert close(there[f"{BLOCK}attn.out_proj.weight"], here["vision_model.encoder.layers.1.self_attn.out_proj.weight"], 1e-3)
        alone = gram(KINDS["open_clip"].load(world / "open_clip" / name), tasks[EXPERTS.index(name)], examples=8)
        assert not np.allclose(there[f"{BLOCK}mlp.c_proj.weight"], alone[f"{BLOCK}mlp.c_proj.weight"], rtol=1e-3)


def test_adamerging_learns_the_same_in_both_libraries(world, tasks):
    found = {}
    for kind, module in KINDS.items():
        recipe = bind({"combine": {"weighted_sum": {}}})
        merge = DifferentiableMerge(recipe, Contexts(clip_models(world, kind)))
        found[kind] = learn(module.load(world / kind / "base"), merge, tasks, 0, steps=5, learning_rate=0.05, scope="model")
    there, here = (found[kind] for kind in ("open_clip", "clip"))
    assert np.allclose(there.losses, here.losses, rtol=1e-4) and here.losses[-1] < here.losses[0]
    assert np.allclose([*there.coefficients.values()], [*here.coefficients.values()], atol=1e-4)
