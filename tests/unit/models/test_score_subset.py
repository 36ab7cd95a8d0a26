"""A merge over a subset of the experts is the merge of these experts alone, though norms were measured with all of them."""

import json

import numpy as np
import pytest
from models import EXAMPLES, calibration, family, merge_measured, merged, method_specs, same_bytes, squares, tensors_of

from nan_merge.checkpoints.checkpoint import Checkpoint
from nan_merge.engine import measure
from nan_merge.engine.processed import processed
from nan_merge.engine.request import Contexts
from nan_merge.layouts.unify import unify_layout
from nan_merge.methods.recipe import bind
from scripts.score_subset import of_experts, requested

METHODS = ["weight_averaging", "weight_averaging+data_size", "task_arithmetic+nan_delta_layer", "ties+nan_delta", "tsv_m", "dare",
           "fisher_normalised+nan_delta", "ace"]  # fmt: skip
PROCESSED = {**method_specs()["ties"], "coefficients": {"nan": {"norm_of": "processed", "mean": 1.0}}}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Base, three experts, and a function that writes what a method spec needs of all three."""
    folder = tmp_path_factory.mktemp("subset")
    base, experts = family(folder)
    models = unify_layout(base, experts)

    def method(name, method_spec):
        recipe, files = bind(method_spec), {"measures": folder / f"{name}.json", "thresholds": None}
        needs, cuts = recipe.requirements, {}
        if "thresholds" in needs:
            cuts = measure.thresholds(models, **needs["thresholds"])
            files["thresholds"] = folder / f"{name}_cuts.json"
            files["thresholds"].write_text(json.dumps({"thresholds": cuts}))
        norms = processed(Contexts(models, cuts), **needs["processed"]) if "processed" in needs else measure.norms(models)
        files["measures"].write_text(json.dumps(norms))
        kind = next((kind for kind in ("fisher", "gram") if kind in needs), None)
        folders = {each: found.folder for each, found in calibration(kind, base, "ac").items()} if kind else {}
        for each in folders.values():
            sums = {tensor: squares(Checkpoint(each), tensor) for tensor in models.merged}
            (each / "calibration.json").write_text(json.dumps({"tensors": sums}))
        return {"id": name, "method_spec": method_spec, **files, "calibration": folders}

    return base, {name: experts[name] for name in "ac"}, method


@pytest.mark.parametrize("name", [*METHODS, "processed"])
def test_a_merge_over_a_subset_is_that_of_its_experts_alone(name, measured, tmp_path):
    base, chosen, method = measured
    method_spec = PROCESSED if name == "processed" else method_specs()[name]
    request = requested(method(name, method_spec), unify_layout(base, chosen), dict(zip("ac", EXAMPLES, strict=False)), 0)
    merge_measured(request.models, request.recipe, request.table, request.thresholds, tmp_path / "found",
                   calibration=request.calibration)  # fmt: skip
    assert same_bytes(tensors_of(tmp_path / "found"), merged(tmp_path / "alone", method_spec, base, chosen))


def test_norms_of_some_experts_are_theirs_in_their_order():
    measures = {"experts": ["a", "b", "c"], "tensors": {"w": {"numel": 6, "task_vector": [1.0, 4.0, 9.0]}}}
    assert of_experts(measures, ["c", "a"]) == {"experts": ["c", "a"], "tensors": {"w": {"numel": 6, "task_vector": [9.0, 1.0]}}}
    assert np.shape(measures["tensors"]["w"]["task_vector"]) == (3,)
