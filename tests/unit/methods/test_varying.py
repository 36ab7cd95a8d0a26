"""Coefficients that vary over layers or tensors: equal to a loop in plain numbers, and the scale that NAN keeps by layer."""

import functools
import math

import numpy as np
import pytest
from models import ROOT, SHAPES, family, tensors_of

import nan_merge
from nan_merge.catalogue.methods import Catalogue, check_method_spec
from nan_merge.checkpoints.safetensors_file import SafetensorsTensor
from nan_merge.core.errors import UserError
from nan_merge.methods.coefficients import constant, estimate, given, kept, nan, scale_of, uniform_matched

LAYERS = 5
TENSORS = ["embed.weight", *(f"h.{i}.{part}.weight" for i in range(LAYERS) for part in ("attn", "mlp")), "head.weight"]
SQUARES = {name: [float(1 + i), float(4 + (3 * i) % 7)] for i, name in enumerate(TENSORS)}
MEASURES = {"experts": ["a", "b"], "tensors": {name: {"task_vector": squares} for name, squares in SQUARES.items()}}
GRADIENT = [0.1, 0.5, 0.4]
CASES = [{"filter": "attn", "value": [0.2, 1.0]}, {"filter": "mlp", "value": 0.5}, {"value": 0.3}]


def table(rule, control=kept, **settings):
    return estimate(MEASURES, rule, control, **settings)


def layer_of(tensor):
    return int(tensor.split(".")[1]) if tensor.startswith("h.") else None


def at(gradient, tensor):
    """Interpolate by the piece that a layer lies on, in exact words of the definition: equal steps from first to last layer."""
    place = (layer_of(tensor) or 0) * (len(gradient) - 1) / (LAYERS - 1)
    piece = min(math.floor(place), len(gradient) - 2)
    return gradient[piece] + (place - piece) * (gradient[piece + 1] - gradient[piece])


def by_case(tensor):
    return at([0.2, 1.0], tensor) if "attn" in tensor else 0.5 if "mlp" in tensor else 0.3


@pytest.mark.parametrize(("value", "expected"), [(GRADIENT, functools.partial(at, GRADIENT)), (CASES, by_case)])
def test_a_constant_that_varies_has_its_value_at_every_tensor(value, expected):
    found = table(functools.partial(constant, value=value))
    assert found.scope == "tensor" and found.experts == ("a", "b")
    for name in TENSORS:
        assert found.at(name) == pytest.approx([expected(name)] * 2, rel=1e-14), name


@pytest.mark.parametrize("scope", ["model", "layer", "tensor"])
def test_nan_takes_over_a_scale_that_varies_and_keeps_its_own_norms(scope):
    """The mean over experts is the host's at every layer; the shares are those of the norms over the model, layer or tensor."""
    rule = functools.partial(nan)
    found, plain = table(rule, scope=scope, **scale_of("constant", {"value": GRADIENT})), table(rule, scope=scope)
    for name in TENSORS:
        assert math.fsum(found.at(name)) / 2 == pytest.approx(at(GRADIENT, name), rel=1e-14), name
        assert found.at(name) == pytest.approx([2 * at(GRADIENT, name) * share for share in plain.at(name)], rel=1e-14)
    level = table(rule, uniform_matched, scope=scope, mean=GRADIENT)
    assert all(level.at(name) == pytest.approx([at(GRADIENT, name)] * 2, rel=1e-15) for name in TENSORS)


def test_nan_takes_over_the_mean_of_coefficients_that_vary_by_expert():
    values = {"a": GRADIENT, "b": CASES}
    found = table(functools.partial(nan), **scale_of("given", {"values": values}))
    host = table(functools.partial(given, values=values))
    for name in TENSORS:
        assert math.fsum(found.at(name)) == pytest.approx(math.fsum(host.at(name)), rel=1e-14), name
    with pytest.raises(UserError, match=r"coefficients: mean: expected a number for each of a, b; found a, c"):
        table(functools.partial(nan), mean={"a": 0.5, "c": GRADIENT})
    with pytest.raises(UserError, match="values that are normalised have no one scale"):
        scale_of("given", {"values": values, "normalise": True})


def test_the_base_is_no_expert_whose_coefficient_counts_for_the_scale():
    assert scale_of("given", {"values": {"a": 0.2, "b": 0.4, "base": 0.4}}) == {"mean": pytest.approx(0.3)}


def test_layers_are_those_of_the_model_where_some_are_not_merged():
    tensors = {name: sums for name, sums in MEASURES["tensors"].items() if layer_of(name) not in (3, 4)}
    found = estimate({**MEASURES, "tensors": tensors, "blocks": {"h.": LAYERS}}, functools.partial(constant, value=[0, 1]), kept)
    assert found.at("h.2.mlp.weight") == [0.5, 0.5]


@pytest.mark.parametrize(("method", "path"), [
    ("task_arithmetic", "constant.value"),
    ("task_arithmetic+nan_delta", "nan.mean"),
    ("task_arithmetic+nan_delta_layer", "nan.mean"),
])  # fmt: skip
def test_a_scale_that_varies_goes_through_the_command(method, path, tmp_path):
    """In float64: base + sum of c(tensor) tau, with a mean over experts of 0.1 in the first layer and 0.4 in the last."""
    base, experts = family(tmp_path)
    places = {"base": base, "experts": experts, "output": tmp_path / "out"}
    merged = nan_merge.merge(**places, method=method, set={f"coefficients.{path}": [0.1, 0.4]})
    found, theta = tensors_of(tmp_path / "out"), tensors_of(base)
    models = {name: tensors_of(folder) for name, folder in experts.items()}
    for name, shape in SHAPES.items():
        alpha = {expert: rows[name] for expert, rows in merged.coefficients.items()}
        assert math.fsum(alpha.values()) / 3 == pytest.approx(0.4 if ".1." in name else 0.1, rel=1e-12), name
        taus = {expert: model[name].astype(np.float64) - theta[name] for expert, model in models.items()}
        expected = theta[name] + sum((alpha[expert] * tau for expert, tau in taus.items()), np.zeros(shape))
        np.testing.assert_allclose(found[name], expected, rtol=1e-6, atol=1e-7, err_msg=name)
    equal = all(len(set(values)) == 1 for values in zip(*(rows.values() for rows in merged.coefficients.values()), strict=True))
    assert equal is (method == "task_arithmetic")


@pytest.mark.parametrize(("method", "path"), [("task_arithmetic", "constant.value"), ("task_arithmetic+nan_delta", "nan.mean")])
def test_a_layer_that_is_not_merged_counts_in_the_command(method, path, tmp_path):
    """Measured norms tell the layers of the base: the first of two has the first value, not that of a stack of one."""
    base, experts = family(tmp_path)
    changes = {"set": {f"coefficients.{path}": [0.1, 0.4]}, "exclude": [r"layer\.1\."]}
    merged = nan_merge.merge(base=base, experts=experts, output=tmp_path / "out", method=method, **changes)
    found = [rows["encoder.layer.0.dense.weight"] for rows in merged.coefficients.values()]
    assert math.fsum(found) / 3 == pytest.approx(0.1, rel=1e-12)


MISTAKES = {
    "one value in brackets": ([0.3], "expected at least 2 of them (values of a gradient over the layers; one value alone"),
    "an empty list": ([], "expected at least 2 of them"),
    "NaN": ([0.1, math.nan], "coefficients.constant.value.1: expected a number, found nan"),
    "infinity in a case": ([{"filter": "attn", "value": [0, math.inf]}, {"value": 0}], "expected a number, found inf"),
    "numbers beside cases": ([0.5, {"value": 0}], "value.0: expected a mapping"),
    "a misspelt key": ([{"filtre": "attn", "value": 0.5}], "unknown key 'filtre'; did you mean 'filter'?"),
    "a case without a value": ([{"filter": "attn"}], "the key 'value' is missing"),
    "a text": ("0.1, 0.5", "expected a number"),
    "a mapping": ({"a": 0.5}, "expected a number (the coefficient lambda), found a mapping"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_in_a_coefficient_that_varies_is_said(case):
    value, message = MISTAKES[case]
    with pytest.raises(UserError) as error:
        check_method_spec({"coefficients": {"constant": {"value": value}}}, ROOT, "file")
    assert message in str(error.value), error.value


def test_a_filter_in_no_name_is_refused_with_the_nearest_part_of_a_name():
    with pytest.raises(UserError, match=r"coefficients: value: filter: 'atn' is a part of no tensor's name; did you mean 'attn'"):
        table(functools.partial(constant, value=[{"filter": "atn", "value": 1}, {"value": 0}]))


@pytest.mark.parametrize("path", ["coefficients.constant.value", "preprocess.clip.limit"])
def test_a_filter_in_no_name_is_refused_before_a_tensor_is_read(path, tmp_path, monkeypatch):
    base, experts = family(tmp_path)
    monkeypatch.setattr(SafetensorsTensor, "block", None)
    cases = [{"filter": "densse", "value": 1}, {"value": 0}]
    stage, _, key = path.split(".")
    operator = "" if stage == "coefficients" else "clip: "
    with pytest.raises(UserError, match=rf"{stage}: {operator}{key}: filter: 'densse' .* did you mean 'dense'") as error:
        nan_merge.merge(base=base, experts=experts, output=tmp_path / "out", method="task_arithmetic", set={path: cases})
    assert "Traceback" not in str(error.value)


@pytest.mark.parametrize("layers", [[3, 1], [2, 2], [3, LAYERS + 1], [LAYERS + 3, LAYERS + 4]])
def test_layers_that_the_model_does_not_have_are_refused(layers):
    cases = [{"layers": layers, "value": [0, 1]}, {"value": 0}]
    expected = "coefficients: value: layers: expected the first layer and the one behind the last, of 5 layers from 0; found"
    with pytest.raises(UserError, match=rf"{expected} \[{layers[0]}, {layers[1]}\]"):
        table(functools.partial(constant, value=cases))


def test_layers_count_those_that_are_not_merged():
    tensors = {name: sums for name, sums in MEASURES["tensors"].items() if layer_of(name) not in (3, 4)}
    measures = {**MEASURES, "tensors": tensors, "blocks": {"h.": LAYERS}}
    found = estimate(measures, functools.partial(constant, value=[{"layers": [2, LAYERS], "value": 1}, {"value": 0}]), kept)
    assert found.at("h.2.mlp.weight") == [1, 1] and found.at("h.1.mlp.weight") == [0, 0]


@pytest.mark.parametrize(("numbers", "shown"), [((0.1, 0.3), "10 % to 30 %"), ((0.2, 0.2), "20 %")])
def test_a_label_tells_the_range_of_values_by_expert(numbers, shown):
    catalogue = Catalogue(ROOT)
    density = dict(zip("ab", numbers, strict=True))
    catalogue.hosts["ties"] |= {"label": "TIES ({density:.0%})", "preprocess": {"trim": {"density": density}}}
    assert catalogue.members("ties")["ties"]["label"] == f"TIES ({shown})"


def test_values_that_vary_are_not_scanned():
    catalogue = Catalogue(ROOT)
    catalogue.hosts["task_arithmetic"] |= {"scan": {"coefficients": {"constant": {"value": [GRADIENT, 0.3]}}}}
    with pytest.raises(UserError, match=r"task_arithmetic: scan: coefficients: constant: value: values become parts of ids"):
        catalogue.members("task_arithmetic")


@pytest.mark.parametrize("value", [GRADIENT, CASES])
@pytest.mark.parametrize("name", ["task_arithmetic+tuned", "task_arithmetic+nan_delta+tuned"])
def test_a_scale_that_varies_has_no_multiples(value, name):
    catalogue = Catalogue(ROOT)
    catalogue.hosts["task_arithmetic"] |= {"coefficients": {"constant": {"value": value}}}
    with pytest.raises(UserError, match=r"does not take the variant 'tuned': its `(value|mean)` varies by layer or tensor"):
        catalogue.members(name)


@pytest.mark.parametrize(("value", "shown"), [(0.3, "0.3"), (GRADIENT, "0.1 to 0.5"), (CASES, "0.2 to 1")])
def test_a_label_tells_the_range_of_a_value_that_varies(value, shown):
    catalogue = Catalogue(ROOT)
    catalogue.hosts["task_arithmetic"] |= {"coefficients": {"constant": {"value": value}}}
    records = [catalogue.members(name)[name] for name in ("task_arithmetic", "task_arithmetic+nan_delta")]
    assert [record["label"] for record in records] == [
        f"Task arithmetic (λ = {shown})",
        f"Task arithmetic (λ = {shown}) + NAN (delta)",
    ]
